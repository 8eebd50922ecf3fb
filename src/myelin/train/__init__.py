"""Training as the untrusted host carries it out: contract in, sealed model and certificate out.

The host holds no key. It starts the enclave, carries messages between it and the owners' brokers, feeds it
sealed data and counts its steps. All that it can do is delay, and every other thing that it could try is
refused by the enclave or a broker.
"""

from myelin.train.brokers import BrokerConnection, Grant
from myelin.train.run import TrainEvent, TrainJob, TrainResult, train

__all__ = ["BrokerConnection", "Grant", "TrainEvent", "TrainJob", "TrainResult", "train"]
