"""From a scenario to a result: costs, workers, assembly."""
