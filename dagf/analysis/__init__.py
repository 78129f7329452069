"""From judged queries to tables, figures and verdicts."""
