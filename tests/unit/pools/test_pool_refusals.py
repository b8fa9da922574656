"""What pools do not go with is said in one sentence, before anything runs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from simulator.layout_choice import LayoutChoice
from simulator.model import ModelError
from simulator.policies.attention.host import HostAttention
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.placement.cold import ColdStart
from simulator.policies.scheduling.continuous import Continuous
from simulator.policies.scheduling.lockstep import Lockstep
from simulator.pools.serve import build_pools
from simulator.pools.spec import Pool, Pools
from simulator.result import simulate
from simulator.scenario import ScenarioError, Settings
from simulator.tenants.spec import Tenants
from tests.unit.pools.test_pools import scenario, two

ONE = LayoutChoice(gpus=1)
