"""What a plan is compared with: `names.py` says what each arm is, without torch; `run.py` runs one."""
