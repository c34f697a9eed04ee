"""Whether routing pays: held-out predictions, intervals, tuning, reports, forecasts."""
