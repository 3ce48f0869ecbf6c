"""Studies: one change at a time against a baseline, over seeds, with honest statistics.

study file ──design──▶ arms × seeds ──execute──▶ run folders ──measure──▶ paired differences
                                                    report.html ◀──analysis──┘

search file ──search──▶ trials by Optuna, each a run as above ──▶ a study of the best
"""
