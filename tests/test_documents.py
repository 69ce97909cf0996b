"""What the documents show must work: the README's kernel and scenario, the plug-in page, every link."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench import scenario
from attnbench.bench.kernel import load_case, why_unsupported
from attnbench.implementation import declared_in
from attnbench.shapes import MhaShape
from attnbench.workload import Workload
from builders import make_info

CHECKOUT = Path(__file__).parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

CATALOGUE = [
    make_info(name, options)
    for name, options in [("naive", {}), ("chunked", {"block": 256}), ("sdpa", {}), ("numpy", {})]
]


def blocks_of(page: str, language: str) -> Iterator[str]:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    yield from re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readmes_kernel_computes_attention() -> None:

    from attnbench.masks import Mask

    (code,) = blocks_of("README.md", "python")
    namespace: dict[str, object] = {}
    exec(compile(code, "my_kernel.py", "exec"), namespace)
    (mine,) = declared_in(namespace)
    assert mine.name == "mine"
    q, k, v = torch.randn(3, 1, 2, 8, 4, generator=torch.Generator().manual_seed(0)).unbind()
    kernel = namespace["mine"]
    found = kernel(q, k, v, mask=Mask("causal", 1, 8, 8), scale=0.5)  # type: ignore[operator]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_readmes_scenario_is_sound() -> None:
    (text,) = blocks_of("README.md", "yaml")
    blocks = scenario.parse(text, "mine.yaml").expand(CATALOGUE)
    assert len(blocks) == 2 * 3 * 4 * 2
    assert {len(block.cases) for block in blocks} == {4, 5}


def test_the_modules_pages_code_runs() -> None:
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for code in blocks_of("docs/modules.md", "python"):  # each goes on from those before, and asserts
        exec(compile(code, "modules.md", "exec"), namespace)
    assert "gradients" in namespace


def test_the_plugin_pages_code_declares_implementations() -> None:
    declared = []
    for code in blocks_of("docs/plugins.md", "python"):
        namespace: dict[str, object] = {}
        exec(compile(code, "plugins.md", "exec"), namespace)
        declared += declared_in(namespace)
    *of_attention, of_mha = declared
    assert [each.operation for each in of_attention] == ["attention"] * len(of_attention)
    assert all(each.options == {"block": 128} for each in of_attention)
    plain = Workload("mha", MhaShape.from_axes({"embed_dim": 12, "heads": 3, "seq_len": 5, "batch": 2}))
    case = load_case(of_mha, {}, plain, "cpu", seed=0)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(case.inputs.parameters)
    x = case.inputs.tensors["x"]
    expected, _ = theirs(x, x, x, need_weights=False)
    assert torch.allclose(case.kernel(case.inputs), expected, atol=1e-6)
    causal = replace(plain, mask="causal")
    assert why_unsupported(of_mha, {}, causal, "cpu") == "anything but plain self attention"


def test_the_page_of_implementations_is_from_the_catalogue() -> None:
    script = CHECKOUT / "docs" / "implementations.py"
    spec = importlib.util.spec_from_file_location("implementations_page", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = module.PAGE.read_text(encoding="utf-8")
    assert written == module.page(written), "out of date: run `python docs/implementations.py`"


def test_the_page_of_implementations_tells_of_each() -> None:
    import attnbench_impls

    page = (CHECKOUT / "docs" / "implementations.md").read_text(encoding="utf-8")
    for each in declared_in(vars(attnbench_impls)):
        assert each.summary
        assert each.memory
        assert each.flops
        assert each.source
        assert each.name in page.split("## ", 1)[1]


def test_the_pytest_pages_tests_pass() -> None:
    (code,) = blocks_of("docs/pytest.md", "python")
    namespace: dict[str, Any] = {}
    exec(compile(code, "pytest.md", "exec"), namespace)
    namespace["test_mine"]("causal", "float32")
    namespace["test_mine_in_blocks"]()
    namespace["test_gradients"]()
