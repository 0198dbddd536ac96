"""The tuner behind `engine bench`: finds the operating point of a fleet, proves it, and explains it.

texts -> Corpus -> Cycle of requests -> FleetLoad (closed loop) -> Visit to a Point -> Record
Search (order, floor, climb, others, refine, final) -> Findings -> Verdict -> table, curve, tuned.toml
"""
