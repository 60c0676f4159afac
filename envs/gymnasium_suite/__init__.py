"""Any registered Gymnasium environments as one multi-task suite."""
