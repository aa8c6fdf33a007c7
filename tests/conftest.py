# SPDX-License-Identifier: MIT
"""Warnings are errors here; who measures a machine is not stopped by one."""


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
