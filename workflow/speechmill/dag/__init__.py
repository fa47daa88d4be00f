"""What rule files call: paths, stage settings, stage versions, resources."""
