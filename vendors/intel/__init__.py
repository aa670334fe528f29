"""Intel IPU E2100: its switch is a P4 program, told what to do over P4Runtime."""
