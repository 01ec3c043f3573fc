"""One job: its workers are started, watched, and what became of them is concluded."""
