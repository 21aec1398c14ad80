"""Commands on keys that may be deleted at any time: one of another type, which none of ours is, is taken away first."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from routing.errors import StoreUnavailable
from routing.store.junk import Junk

Command = Callable[..., Awaitable[Any]]
HASH, STREAM, STRING = "hash", "stream", "string"

# KEYS that may be deleted; ARGV the type of each. Those of another type are deleted; answers their names. It needs no
# right that the store does not need anyway: a time to live of nothing deletes.
MEND = """
local mended = {}
for k = 1, #KEYS do
  local found
  if ARGV[k] == 'hash' then
    found = redis.pcall('HGET', KEYS[k], '')
  elseif ARGV[k] == 'stream' then
    found = redis.pcall('XRANGE', KEYS[k], '0-0', '0-0')
  else
    found = redis.pcall('GET', KEYS[k])
  end
  if type(found) == 'table' and found.err and string.find(found.err, 'WRONGTYPE', 1, true) then
    redis.call('PEXPIRE', KEYS[k], 0)
    mended[#mended + 1] = KEYS[k]
  end
end
return mended
"""


class WrongType(StoreUnavailable):
    """A key holds another type than ours does."""


class SideKeys:
    """Sends commands on such keys.

    Args:
        command: Sends one command within its time.
        junk: Told of what was taken away.
    """

    def __init__(self, command: Command, junk: Junk) -> None:
        self._command = command
        self._junk = junk

    async def send(self, kinds: Mapping[str, str], *command: Any) -> Any:
        """A command on keys, by the type of each; it must be safe to send again after it met a key of another type."""
        try:
            return await self._command(*command)
        except WrongType:
            mended = await self._command("EVAL", MEND, len(kinds), *kinds, *kinds.values())
            for key in mended:
                self._junk.tell(key.decode(errors="replace"), "it is of another type: deleted")
            return await self._command(*command)

    async def run(self, script: str, kinds: Mapping[str, str], *args: Any) -> Any:
        """The same of a script, whose keys these are, in order."""
        return await self.send(kinds, "EVAL", script, len(kinds), *kinds, *args)
