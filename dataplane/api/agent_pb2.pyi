from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPortsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTunnelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEntriesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("node", "obstacle", "fabric_connected", "fabric_error", "fabric_access", "vteps", "targets", "problems", "ports", "unpublished", "blocked", "modes")
    class ModesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    FABRIC_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    FABRIC_ERROR_FIELD_NUMBER: _ClassVar[int]
    FABRIC_ACCESS_FIELD_NUMBER: _ClassVar[int]
    VTEPS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    UNPUBLISHED_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    node: str
    obstacle: str
    fabric_connected: bool
    fabric_error: str
    fabric_access: str
    vteps: _containers.RepeatedScalarFieldContainer[str]
    targets: _containers.RepeatedCompositeFieldContainer[TargetStatus]
    problems: _containers.RepeatedScalarFieldContainer[str]
    ports: int
    unpublished: _containers.RepeatedCompositeFieldContainer[Port]
    blocked: _containers.RepeatedCompositeFieldContainer[Port]
    modes: _containers.ScalarMap[str, str]
    def __init__(self, node: _Optional[str] = ..., obstacle: _Optional[str] = ..., fabric_connected: _Optional[bool] = ..., fabric_error: _Optional[str] = ..., fabric_access: _Optional[str] = ..., vteps: _Optional[_Iterable[str]] = ..., targets: _Optional[_Iterable[_Union[TargetStatus, _Mapping]]] = ..., problems: _Optional[_Iterable[str]] = ..., ports: _Optional[int] = ..., unpublished: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., blocked: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., modes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TargetStatus(_message.Message):
    __slots__ = ("name", "generation", "error", "pending", "overdue_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    OVERDUE_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    error: str
    pending: _containers.RepeatedScalarFieldContainer[str]
    overdue_s: float
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., error: _Optional[str] = ..., pending: _Optional[_Iterable[str]] = ..., overdue_s: _Optional[float] = ...) -> None: ...

class Port(_message.Message):
    __slots__ = ("node", "container_id", "ifname", "netns", "identity", "segment", "vni", "mac", "ips", "mtu", "access_port", "ovs_port", "state", "reason", "detail", "published", "guard", "handed_over")
    class HandedOverEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    NETNS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    VNI_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    ACCESS_PORT_FIELD_NUMBER: _ClassVar[int]
    OVS_PORT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    HANDED_OVER_FIELD_NUMBER: _ClassVar[int]
    node: str
    container_id: str
    ifname: str
    netns: str
    identity: str
    segment: str
    vni: int
    mac: str
    ips: _containers.RepeatedScalarFieldContainer[str]
    mtu: int
    access_port: str
    ovs_port: str
    state: str
    reason: str
    detail: str
    published: bool
    guard: str
    handed_over: _containers.ScalarMap[str, int]
    def __init__(self, node: _Optional[str] = ..., container_id: _Optional[str] = ..., ifname: _Optional[str] = ..., netns: _Optional[str] = ..., identity: _Optional[str] = ..., segment: _Optional[str] = ..., vni: _Optional[int] = ..., mac: _Optional[str] = ..., ips: _Optional[_Iterable[str]] = ..., mtu: _Optional[int] = ..., access_port: _Optional[str] = ..., ovs_port: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ..., published: _Optional[bool] = ..., guard: _Optional[str] = ..., handed_over: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Tunnel(_message.Message):
    __slots__ = ("node", "segment", "vni", "encap", "local", "remote", "udp_port", "remote_nodes", "endpoints", "mtu")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    VNI_FIELD_NUMBER: _ClassVar[int]
    ENCAP_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    UDP_PORT_FIELD_NUMBER: _ClassVar[int]
    REMOTE_NODES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    node: str
    segment: str
    vni: int
    encap: str
    local: str
    remote: str
    udp_port: int
    remote_nodes: _containers.RepeatedScalarFieldContainer[str]
    endpoints: int
    mtu: int
    def __init__(self, node: _Optional[str] = ..., segment: _Optional[str] = ..., vni: _Optional[int] = ..., encap: _Optional[str] = ..., local: _Optional[str] = ..., remote: _Optional[str] = ..., udp_port: _Optional[int] = ..., remote_nodes: _Optional[_Iterable[str]] = ..., endpoints: _Optional[int] = ..., mtu: _Optional[int] = ...) -> None: ...

class ListPortsResponse(_message.Message):
    __slots__ = ("ports",)
    PORTS_FIELD_NUMBER: _ClassVar[int]
    ports: _containers.RepeatedCompositeFieldContainer[Port]
    def __init__(self, ports: _Optional[_Iterable[_Union[Port, _Mapping]]] = ...) -> None: ...

class ListTunnelsResponse(_message.Message):
    __slots__ = ("tunnels",)
    TUNNELS_FIELD_NUMBER: _ClassVar[int]
    tunnels: _containers.RepeatedCompositeFieldContainer[Tunnel]
    def __init__(self, tunnels: _Optional[_Iterable[_Union[Tunnel, _Mapping]]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("node", "segment", "vni", "mac", "identity", "via", "placement", "reason", "packets", "bytes", "words", "counted")
    class CountedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    VNI_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    node: str
    segment: str
    vni: int
    mac: str
    identity: str
    via: str
    placement: str
    reason: str
    packets: int
    bytes: int
    words: str
    counted: _containers.ScalarMap[str, int]
    def __init__(self, node: _Optional[str] = ..., segment: _Optional[str] = ..., vni: _Optional[int] = ..., mac: _Optional[str] = ..., identity: _Optional[str] = ..., via: _Optional[str] = ..., placement: _Optional[str] = ..., reason: _Optional[str] = ..., packets: _Optional[int] = ..., bytes: _Optional[int] = ..., words: _Optional[str] = ..., counted: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ListEntriesResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class TraceRequest(_message.Message):
    __slots__ = ("segment", "source", "target")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    segment: str
    source: TraceEnd
    target: TraceEnd
    def __init__(self, segment: _Optional[str] = ..., source: _Optional[_Union[TraceEnd, _Mapping]] = ..., target: _Optional[_Union[TraceEnd, _Mapping]] = ...) -> None: ...

class TraceEnd(_message.Message):
    __slots__ = ("name", "node", "mac", "ip", "vtep", "segment", "vtep_there")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    VTEP_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    VTEP_THERE_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: str
    mac: str
    ip: str
    vtep: str
    segment: str
    vtep_there: str
    def __init__(self, name: _Optional[str] = ..., node: _Optional[str] = ..., mac: _Optional[str] = ..., ip: _Optional[str] = ..., vtep: _Optional[str] = ..., segment: _Optional[str] = ..., vtep_there: _Optional[str] = ...) -> None: ...

class TraceResponse(_message.Message):
    __slots__ = ("node", "hops")
    NODE_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    node: str
    hops: _containers.RepeatedCompositeFieldContainer[Hop]
    def __init__(self, node: _Optional[str] = ..., hops: _Optional[_Iterable[_Union[Hop, _Mapping]]] = ...) -> None: ...

class Hop(_message.Message):
    __slots__ = ("node", "source", "target", "enters", "predicted", "fastpath", "ovs", "arrives", "via", "reason", "tunnel", "owner", "difference", "switch")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ENTERS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    FASTPATH_FIELD_NUMBER: _ClassVar[int]
    OVS_FIELD_NUMBER: _ClassVar[int]
    ARRIVES_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TUNNEL_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    node: str
    source: str
    target: str
    enters: str
    predicted: Outcome
    fastpath: Outcome
    ovs: Outcome
    arrives: bool
    via: str
    reason: str
    tunnel: str
    owner: str
    difference: str
    switch: Outcome
    def __init__(self, node: _Optional[str] = ..., source: _Optional[str] = ..., target: _Optional[str] = ..., enters: _Optional[str] = ..., predicted: _Optional[_Union[Outcome, _Mapping]] = ..., fastpath: _Optional[_Union[Outcome, _Mapping]] = ..., ovs: _Optional[_Union[Outcome, _Mapping]] = ..., arrives: _Optional[bool] = ..., via: _Optional[str] = ..., reason: _Optional[str] = ..., tunnel: _Optional[str] = ..., owner: _Optional[str] = ..., difference: _Optional[str] = ..., switch: _Optional[_Union[Outcome, _Mapping]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("action", "says", "reason", "detail", "passed")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SAYS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    action: str
    says: str
    reason: str
    detail: str
    passed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, action: _Optional[str] = ..., says: _Optional[str] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ..., passed: _Optional[_Iterable[str]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("packets", "seed", "segment", "send")
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SEND_FIELD_NUMBER: _ClassVar[int]
    packets: int
    seed: str
    segment: str
    send: bool
    def __init__(self, packets: _Optional[int] = ..., seed: _Optional[str] = ..., segment: _Optional[str] = ..., send: _Optional[bool] = ...) -> None: ...

class Verified(_message.Message):
    __slots__ = ("node", "total", "asked", "left_out", "paths", "differences")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    node: str
    total: int
    asked: int
    left_out: int
    paths: _containers.RepeatedCompositeFieldContainer[PathTally]
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    def __init__(self, node: _Optional[str] = ..., total: _Optional[int] = ..., asked: _Optional[int] = ..., left_out: _Optional[int] = ..., paths: _Optional[_Iterable[_Union[PathTally, _Mapping]]] = ..., differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ...) -> None: ...

class PathTally(_message.Message):
    __slots__ = ("path", "why_not", "asked", "verdicts", "differed", "unknown", "why_unknown", "not_observed", "excused", "absent", "why_absent")
    class VerdictsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class NotObservedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ExcusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    DIFFERED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    WHY_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    NOT_OBSERVED_FIELD_NUMBER: _ClassVar[int]
    EXCUSED_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    WHY_ABSENT_FIELD_NUMBER: _ClassVar[int]
    path: str
    why_not: str
    asked: int
    verdicts: _containers.ScalarMap[str, int]
    differed: int
    unknown: int
    why_unknown: str
    not_observed: _containers.ScalarMap[str, int]
    excused: _containers.ScalarMap[str, int]
    absent: int
    why_absent: str
    def __init__(self, path: _Optional[str] = ..., why_not: _Optional[str] = ..., asked: _Optional[int] = ..., verdicts: _Optional[_Mapping[str, int]] = ..., differed: _Optional[int] = ..., unknown: _Optional[int] = ..., why_unknown: _Optional[str] = ..., not_observed: _Optional[_Mapping[str, int]] = ..., excused: _Optional[_Mapping[str, int]] = ..., absent: _Optional[int] = ..., why_absent: _Optional[str] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("path", "question", "field", "said", "truth", "rule", "truths_rule", "frame")
    PATH_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    SAID_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    TRUTHS_RULE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    path: str
    question: str
    field: str
    said: str
    truth: str
    rule: str
    truths_rule: str
    frame: str
    def __init__(self, path: _Optional[str] = ..., question: _Optional[str] = ..., field: _Optional[str] = ..., said: _Optional[str] = ..., truth: _Optional[str] = ..., rule: _Optional[str] = ..., truths_rule: _Optional[str] = ..., frame: _Optional[str] = ...) -> None: ...
