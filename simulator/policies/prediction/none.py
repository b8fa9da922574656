from simulator.policies.prediction.base import PredictionPolicy


class NoPrediction(PredictionPolicy):
    """Expects nothing."""

    def guess(self, rows, following):
        return None
