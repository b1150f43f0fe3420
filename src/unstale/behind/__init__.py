"""Write-behind: a durable queue before the database, for those who ask for it.

The guide begins with when not to use it.
"""

from unstale.behind.urls import open_queue
from unstale.behind.write_behind import WriteBehind
from unstale.behind.writes import Dead, Queued, Status, Write

__all__ = ["Dead", "Queued", "Status", "Write", "WriteBehind", "open_queue"]
