"""Reports for people: one run, or a whole sweep. Reads the files of runs, and nothing else.

read_run    ─▶ RunFolder ─▶ run_report    report.html of a run
cells       ─▶ CellRecord ─▶ sweep_report  report.html and sweep.csv of a sweep
                        └─▶ terminal      the same in brief, for sft-report
"""
