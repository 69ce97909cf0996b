"""What an interpreter has: run by it as a script, so written for any Python 3, and with no import of ours.

Its one argument is JSON: `checkout` (a folder, links followed; or empty), `project` (a distribution's name
or null), `names` (of modules) and `instead` (folders of sys.path, links followed, to those in their place).
It prints JSON: `version`; `missing`, those of NumPy and torch that are not installed; `brings`, whether an
attnbench is installed there that declares implementations; `sites`, its folders of packages; `found`, where
the modules called `names` would be imported from; and of what lies in the checkout: `path`, entries of
sys.path; `redirected`, modules that an editable install leads there; `installed`, distributions that were
installed from it, with their modules.
"""

import json
import os
import sys
from typing import Any


def _inside(path: str, folder: str) -> bool:
    return os.path.join(os.path.realpath(path), "").startswith(os.path.join(folder, ""))


def _origin(name: str) -> Any:
    """Where a module would be imported from; its package is not imported for it."""
    from importlib.util import find_spec

    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)


def _redirected(checkout: str) -> Any:
    """Modules that setuptools' finders lead into the checkout: their mapping is the finder's module's."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            for target, path in getattr(module, "MAPPING", {}).items():
                if _inside(path, checkout):
                    found[target] = path
    return found


def _installed(checkout: str, project: Any) -> Any:
    """Distributions that were made from the checkout, as far as their metadata tells, by name."""
    from importlib.metadata import distributions
    from urllib.parse import unquote, urlsplit

    found = {}
    for each in distributions():
        name = (each.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-")
        if name in found or (name == "attnbench" and project != name):
            continue
        url = urlsplit(json.loads(each.read_text("direct_url.json") or "{}").get("url", ""))
        if name == project or (url.scheme == "file" and _inside(unquote(url.path), checkout)):
            names = set((each.read_text("top_level.txt") or "").split())
            for file in each.files or ():
                top = file.parts[0]
                code = file.suffix in (".py", ".so", ".pyd")
                if code and top != ".." and not top.startswith("__editable__"):
                    names.add(top.split(".")[0])
            found[name] = sorted(names)
    return found


if __name__ == "__main__":
    _asked = json.loads(sys.argv[1])
    _checkout = _asked["checkout"]
    _here = os.path.dirname(os.path.abspath(__file__))  # a bench has no folder of a script on its path
    sys.path[:] = [
        _asked["instead"].get(os.path.realpath(path), path)
        for path in sys.path
        if path and os.path.abspath(path) != _here
    ]
    _told: Any = {"version": list(sys.version_info[:3])}
    if sys.version_info >= (3, 11):  # noqa: UP036  # asked of any interpreter that somebody names
        import site
        from importlib.metadata import entry_points

        _points = entry_points(group="attnbench.implementations")
        _sites = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
        _told.update(
            missing=[name for name in ("numpy", "torch") if _origin(name) is None],
            brings=any(point.dist and point.dist.name == "attnbench" for point in _points),
            sites=[path for path in _sites if os.path.isdir(path)],
            found={name: _origin(name) for name in _asked["names"]},
        )
        if _checkout:
            _told.update(
                path=[path for path in sys.path if _inside(path, _checkout)],
                redirected=_redirected(_checkout),
                installed=_installed(_checkout, _asked["project"]),
            )
    sys.stdout.write("\n" + json.dumps(_told) + "\n")
