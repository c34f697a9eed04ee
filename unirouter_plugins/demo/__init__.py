"""The whole of it on one machine: a real small model, the same with votes, and a calculator, routed between."""
