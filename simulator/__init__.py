"""What happens over time: models, policies, the engine, and the results of runs."""
