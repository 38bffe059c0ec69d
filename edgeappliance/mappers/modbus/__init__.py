"""Modbus RTU and TCP: the only package that imports pymodbus and pyserial."""
