"""What can be seen of settings before anything starts."""

from pathlib import Path

import pytest

from gateway.errors import InvalidSettings
from gateway.settings_file import load_settings

TOKEN = "admin: {tokens: [{name: ops, role: admin, sha256: '" + "0" * 64 + "'}]}\n"


@pytest.mark.parametrize(
    "url", ["redis://h/0?ssl_cert_reqs=none", "redis://h/0?socket_timeout=3", "rediss://h/0?ssl_cert_reqs=maybe"]
)
def test_a_store_url_that_could_not_be_served_from_is_a_problem_with_its_pointer(tmp_path: Path, url: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{TOKEN}store: {{url: '{url}'}}\n")
    with pytest.raises(InvalidSettings) as refusal:
        load_settings(file)
    assert [problem.pointer for problem in refusal.value.problems] == ["/store/url"]


def test_a_store_url_with_tls_is_none(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{TOKEN}store: {{url: 'rediss://h/0?ssl_cert_reqs=none'}}\n")
    assert load_settings(file).store_url == "rediss://h/0?ssl_cert_reqs=none"
