"""Who may reach what: rules, decision, audit."""
