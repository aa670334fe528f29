from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetDevicesRequest(_message.Message):
    __slots__ = ("segment", "count")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    segment: str
    count: int
    def __init__(self, segment: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class GetDevicesResponse(_message.Message):
    __slots__ = ("node", "devices", "obstacle", "count", "limits_existing", "held")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_EXISTING_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    node: str
    devices: _containers.RepeatedCompositeFieldContainer[ServedDevice]
    obstacle: str
    count: int
    limits_existing: bool
    held: Held
    def __init__(self, node: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[ServedDevice, _Mapping]]] = ..., obstacle: _Optional[str] = ..., count: _Optional[int] = ..., limits_existing: _Optional[bool] = ..., held: _Optional[_Union[Held, _Mapping]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("attachments",)
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    attachments: _containers.RepeatedCompositeFieldContainer[HeldAttachment]
    def __init__(self, attachments: _Optional[_Iterable[_Union[HeldAttachment, _Mapping]]] = ...) -> None: ...

class HeldAttachment(_message.Message):
    __slots__ = ("container_id", "ifname")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    ifname: str
    def __init__(self, container_id: _Optional[str] = ..., ifname: _Optional[str] = ...) -> None: ...

class ServedDevice(_message.Message):
    __slots__ = ("serial", "vfs")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    VFS_FIELD_NUMBER: _ClassVar[int]
    serial: str
    vfs: int
    def __init__(self, serial: _Optional[str] = ..., vfs: _Optional[int] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("serial", "vf", "container_id", "ifname", "segment", "identity", "mac", "ips", "ipam", "mtu", "network", "requested_at", "publishes", "again")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    VF_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    IPAM_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_AT_FIELD_NUMBER: _ClassVar[int]
    PUBLISHES_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    serial: str
    vf: int
    container_id: str
    ifname: str
    segment: str
    identity: str
    mac: str
    ips: _containers.RepeatedScalarFieldContainer[str]
    ipam: bool
    mtu: int
    network: str
    requested_at: int
    publishes: bool
    again: bool
    def __init__(self, serial: _Optional[str] = ..., vf: _Optional[int] = ..., container_id: _Optional[str] = ..., ifname: _Optional[str] = ..., segment: _Optional[str] = ..., identity: _Optional[str] = ..., mac: _Optional[str] = ..., ips: _Optional[_Iterable[str]] = ..., ipam: _Optional[bool] = ..., mtu: _Optional[int] = ..., network: _Optional[str] = ..., requested_at: _Optional[int] = ..., publishes: _Optional[bool] = ..., again: _Optional[bool] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("mac", "addresses", "mtu", "vni", "routes")
    MAC_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    VNI_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    mac: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    mtu: int
    vni: int
    routes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, mac: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., mtu: _Optional[int] = ..., vni: _Optional[int] = ..., routes: _Optional[_Iterable[str]] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("serial", "container_id", "ifname")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    serial: str
    container_id: str
    ifname: str
    def __init__(self, serial: _Optional[str] = ..., container_id: _Optional[str] = ..., ifname: _Optional[str] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("published",)
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    published: bool
    def __init__(self, published: _Optional[bool] = ...) -> None: ...

class DetachRequest(_message.Message):
    __slots__ = ("serial", "container_id", "ifname")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    serial: str
    container_id: str
    ifname: str
    def __init__(self, serial: _Optional[str] = ..., container_id: _Optional[str] = ..., ifname: _Optional[str] = ...) -> None: ...

class DetachResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ("serial", "container_id", "ifname")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    serial: str
    container_id: str
    ifname: str
    def __init__(self, serial: _Optional[str] = ..., container_id: _Optional[str] = ..., ifname: _Optional[str] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("faults",)
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    faults: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, faults: _Optional[_Iterable[str]] = ...) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("sendings", "listen_ms")
    SENDINGS_FIELD_NUMBER: _ClassVar[int]
    LISTEN_MS_FIELD_NUMBER: _ClassVar[int]
    sendings: _containers.RepeatedCompositeFieldContainer[Sending]
    listen_ms: int
    def __init__(self, sendings: _Optional[_Iterable[_Union[Sending, _Mapping]]] = ..., listen_ms: _Optional[int] = ...) -> None: ...

class Sending(_message.Message):
    __slots__ = ("container_id", "ifname", "frame", "mark")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    ifname: str
    frame: bytes
    mark: bytes
    def __init__(self, container_id: _Optional[str] = ..., ifname: _Optional[str] = ..., frame: _Optional[bytes] = ..., mark: _Optional[bytes] = ...) -> None: ...

class Witnessed(_message.Message):
    __slots__ = ("sights", "error")
    SIGHTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    sights: _containers.RepeatedCompositeFieldContainer[Sight]
    error: str
    def __init__(self, sights: _Optional[_Iterable[_Union[Sight, _Mapping]]] = ..., error: _Optional[str] = ...) -> None: ...

class Sight(_message.Message):
    __slots__ = ("container_id", "ifname", "frame", "fault")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    ifname: str
    frame: bytes
    fault: str
    def __init__(self, container_id: _Optional[str] = ..., ifname: _Optional[str] = ..., frame: _Optional[bytes] = ..., fault: _Optional[str] = ...) -> None: ...
