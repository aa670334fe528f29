from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InitRequest(_message.Message):
    __slots__ = ("dpu_mode", "dpu_identifier")
    DPU_MODE_FIELD_NUMBER: _ClassVar[int]
    DPU_IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    dpu_mode: bool
    dpu_identifier: str
    def __init__(self, dpu_mode: _Optional[bool] = ..., dpu_identifier: _Optional[str] = ...) -> None: ...

class IpPort(_message.Message):
    __slots__ = ("ip", "port")
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    ip: str
    port: int
    def __init__(self, ip: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class VfCount(_message.Message):
    __slots__ = ("vf_cnt",)
    VF_CNT_FIELD_NUMBER: _ClassVar[int]
    vf_cnt: int
    def __init__(self, vf_cnt: _Optional[int] = ...) -> None: ...

class TopologyInfo(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("ID", "health", "topology")
    ID_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    ID: str
    health: str
    topology: TopologyInfo
    def __init__(self, ID: _Optional[str] = ..., health: _Optional[str] = ..., topology: _Optional[_Union[TopologyInfo, _Mapping]] = ...) -> None: ...

class DeviceListResponse(_message.Message):
    __slots__ = ("devices",)
    class DevicesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Device
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Device, _Mapping]] = ...) -> None: ...
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.MessageMap[str, Device]
    def __init__(self, devices: _Optional[_Mapping[str, Device]] = ...) -> None: ...

class PingRequest(_message.Message):
    __slots__ = ("timestamp", "sender_id")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    sender_id: str
    def __init__(self, timestamp: _Optional[int] = ..., sender_id: _Optional[str] = ...) -> None: ...

class PingResponse(_message.Message):
    __slots__ = ("timestamp", "responder_id", "healthy")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    RESPONDER_ID_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    responder_id: str
    healthy: bool
    def __init__(self, timestamp: _Optional[int] = ..., responder_id: _Optional[str] = ..., healthy: _Optional[bool] = ...) -> None: ...
