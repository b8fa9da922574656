"""Makes `tests.helpers` importable however pytest is started, and keeps generated traces in the checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
os.environ.setdefault("MOESIM_CACHE", str(ROOT / ".pytest_cache" / "moesim"))
