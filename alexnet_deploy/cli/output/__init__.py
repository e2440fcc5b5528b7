"""What people see: lines, tables, bars, and a standard output that may end early."""
