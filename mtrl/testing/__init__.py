"""The contracts of the suite as functions, for the tests of whoever writes a plug-in.

Each takes the class and raises AssertionError with a sentence that says what is wrong and where:

    def test_film_keeps_the_contract():
        check_architecture(FiLM, FiLM.Config(width=16))
"""

from mtrl.testing.agent import check_agent
from mtrl.testing.aggregator import check_aggregator
from mtrl.testing.architecture import check_architecture
from mtrl.testing.auxiliary import check_auxiliary
from mtrl.testing.scheduler import check_scheduler
from mtrl.testing.suite import check_suite

__all__ = ["check_agent", "check_aggregator", "check_architecture", "check_auxiliary", "check_scheduler", "check_suite"]
