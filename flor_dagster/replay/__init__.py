"""Answer hindsight questions: plan, re-execute in children, verify, settle cells."""
