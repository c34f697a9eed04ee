"""What stands between a model of the pool and the provider that answers: who it is, what it costs, who is next."""
