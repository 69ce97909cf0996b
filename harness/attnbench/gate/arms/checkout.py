"""The git checkout around a folder: which commit a revision is, and what there is to choose from."""

from __future__ import annotations

import difflib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UsageError

__all__ = ["Checkout", "GitFailed", "environment"]

#: What hooks set for git's own use: with these, git would look at another repository, index or worktree.
#: (`git rev-parse --local-env-vars` without those that only hold configuration.)
REDIRECTING = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)

#: How many names are suggested for one that does not exist.
SUGGESTIONS = 5


class GitFailed(Exception):
    """git ended with an error; the text is what it said."""


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """`inherited` as git, and what calls git, is to see it in a folder of our choice."""
    kept = {name: value for name, value in inherited.items() if name not in REDIRECTING}
    return {**kept, "GIT_TERMINAL_PROMPT": "0"}


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout: `root` is its topmost folder, `common` where git keeps what all its worktrees share."""

    root: Path
    common: Path

    @classmethod
    def around(cls, folder: Path) -> Checkout | None:
        """The checkout that `folder` is in, or None.

        Raises:
            UsageError: there is no git, or it refuses to look.
        """
        try:
            root = _git(folder, "rev-parse", "--show-toplevel")
            common = Path(root, _git(Path(root), "rev-parse", "--git-common-dir"))
        except GitFailed as error:
            if "not a git repository" in str(error) or "must be run in a work tree" in str(error):
                return None
            raise UsageError(f"git cannot read the repository around {folder}: {error}") from error
        return cls(Path(root).resolve(), common.resolve())

    def commit(self, revision: str) -> str | None:
        """The full name of the commit that `revision` means, or None."""
        if not revision or revision.startswith("-"):
            return None
        try:
            return _git(self.root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}") or None
        except GitFailed:
            return None

    def short(self, commit: str) -> str:
        """A commit's name as people write it."""
        return _git(self.root, "rev-parse", "--short", commit)

    def is_shallow(self) -> bool:
        """Whether older commits were left out when it was cloned."""
        return _git(self.root, "rev-parse", "--is-shallow-repository") == "true"

    def similar(self, revision: str) -> list[str]:
        """Branches and tags whose names are like `revision`, the most alike first."""
        names = _git(self.root, "for-each-ref", "--format=%(refname:short)", "refs").splitlines()
        bare = {name.rsplit("/", 1)[-1]: name for name in reversed(names)}
        alike = difflib.get_close_matches(revision, [*names, *bare], n=SUGGESTIONS, cutoff=0.6)
        return list(dict.fromkeys(bare.get(name, name) for name in alike))

    def newest(self) -> list[str]:
        """The branches and tags that were last committed to."""
        newest = ("--sort=-committerdate", f"--count={SUGGESTIONS}", "--format=%(refname:short)")
        return _git(self.root, "for-each-ref", *newest, "refs/heads", "refs/tags").splitlines()

    def tracks(self, path: Path) -> bool:
        """Whether the file at `path` is under version control here."""
        try:
            _git(self.root, "ls-files", "--error-unmatch", "--", str(path))
        except GitFailed:
            return False
        return True

    def holds(self, path: Path) -> bool:
        """Whether `path` is inside of it, links followed."""
        return path.resolve().is_relative_to(self.root)


def _git(folder: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        GitFailed: it ends with an error.
        UsageError: there is no git.
    """
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            # Errors are told apart by their text; and looking must not write, not even an index.
            env={**environment(os.environ), "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except OSError as error:
        raise UsageError(
            f"git cannot be started ({error}), so revisions cannot be looked up; install it, or give a "
            "Python file or an interpreter instead of a revision"
        ) from error
    if done.returncode != 0:
        raise GitFailed(done.stderr.decode(errors="replace").strip())
    return done.stdout.decode(errors="surrogateescape").strip()
