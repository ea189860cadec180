"""The study's report: its five questions answered by one run, in one file."""
