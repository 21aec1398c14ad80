"""Configurations of peers: files with ``@NAME@`` in them."""

import re
from pathlib import Path

from loadtests.bench.machine import CONFIGS

HOLE = re.compile(r"@([A-Z_]+)@")
MIRROR_ON = "mirror /mirror; mirror_request_body on;"
MIRROR_LOCATION = "location = /mirror { internal; proxy_pass http://shadow$request_uri; }"
ENVOY_MIRROR = """\
                            request_mirror_policies:
                              - {cluster: shadow, runtime_fraction: {default_value: {numerator: 100}}}"""
ENVOY_CLUSTER = """\
    - name: @NAME@
      type: STATIC
      connect_timeout: 2s
      load_assignment:
        cluster_name: @NAME@
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @PORT@}}}
"""


def fill(text: str, **values: object) -> str:
    """Put values into their holes; in a comment line the names stay.

    Raises:
        KeyError: A hole has no value.
    """
    lines = []
    for line in text.splitlines():
        if line.startswith("#"):
            lines.append(line)
        else:
            lines.append(HOLE.sub(lambda hole: str(values[hole[1]]), line))
    return "\n".join(lines) + "\n"


def render(name: str, **values: object) -> str:
    """A committed configuration with its values."""
    return fill((CONFIGS / name).read_text(), **values)


def write(folder: Path, name: str, **values: object) -> Path:
    """Render into a folder; the file."""
    path = folder / name
    path.write_text(render(name, **values))
    return path
