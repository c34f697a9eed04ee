"""What tells a right answer from a wrong one, a file for each kind of answer; `unirouter_core.grading` names them."""
