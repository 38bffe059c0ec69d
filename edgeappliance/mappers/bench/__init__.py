"""A simulated field: Modbus slaves on paced pty lines and TCP, so that everything can be tried at the desk.

Written without pymodbus, so that the mapper and the bench do not share each other's mistakes.
"""
