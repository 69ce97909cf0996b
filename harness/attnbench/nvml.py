"""What an NVIDIA GPU says of itself: clock, heat, power, energy, and why its clock is not higher.

Asks the driver's library NVML through nvidia-ml-py (the module `pynvml`), which neither needs torch nor
makes a CUDA context, so the parent may ask too. Whatever cannot be had is None: no driver, no such GPU, a
figure that this GPU or driver does not know, or may not tell. Nothing here raises.

NVML numbers all GPUs of the machine in the order of their PCI addresses; CUDA sorts them as it likes and
counts only those that CUDA_VISIBLE_DEVICES shows. So a GPU is found by its UUID, never by a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from attnbench.protocol import GpuReply

__all__ = ["REASONS", "SLOWING", "Gpu", "GpuState", "driver_version"]

#: Why a clock is not higher, by NVML's bit (nvmlClocksEventReason… in nvml.h, nvmlClocksThrottleReason…
#: before CUDA 12.2; the numbers are the same).
REASONS: dict[int, str] = {
    0x001: "idle",
    0x002: "clocks_setting",  # somebody has set the clocks
    0x004: "power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}

#: Reasons under which no figure is the GPU's own: it is too hot, or its supply of power failed it. A power
#: cap is not among them: a busy GPU runs at its power limit, today and tomorrow alike.
SLOWING = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake"})

_MHZ = 1_000_000


@dataclass(frozen=True, slots=True)
class GpuState:
    """How a GPU is at one moment; `reasons` are of `REASONS`, empty where nothing holds its clock down.

    The power is that of the whole board, averaged over the last second on most GPUs since Ampere; None for a
    part of a GPU (MIG), since others share it.
    """

    sm_clock_hz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    reasons: tuple[str, ...] | None = None

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """Those of the reasons that are in `SLOWING`."""
        return tuple(reason for reason in self.reasons or () if reason in SLOWING)

    def to_reply(self) -> GpuReply:
        """As it travels out of a bench."""
        return GpuReply(
            sm_clock_hz=self.sm_clock_hz,
            temperature_c=self.temperature_c,
            power_w=self.power_w,
            reasons=None if self.reasons is None else list(self.reasons),
        )


class Gpu:
    """One GPU, or one part of a GPU (MIG), to be asked; a context manager that lets go of NVML."""

    def __init__(self, handle: Any, board: Any) -> None:
        self._handle = handle
        self._board = board  # of a part of a GPU: the GPU, which has the clock and the heat
        self._closed = False

    @classmethod
    def open(cls, uuid: str | None) -> Gpu | None:
        """The GPU with this UUID, with or without `GPU-` or `MIG-` before it; None where there is none such.

        Without a UUID, which old versions of torch do not tell, it is the only GPU that the machine has.
        """
        if not _initialised():
            return None
        if uuid is None:
            alone = _ask("nvmlDeviceGetCount") == 1
            handle = _ask("nvmlDeviceGetHandleByIndex", 0) if alone else None
        else:
            bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
            handle = next(
                (
                    found
                    for kind in ("GPU-", "MIG-")
                    if (found := _ask("nvmlDeviceGetHandleByUUID", kind + bare)) is not None
                ),
                None,
            )
        if handle is None:
            _ask("nvmlShutdown")
            return None
        board = _ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
        return cls(handle, handle if board is None else board)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of NVML. Can be called twice."""
        if not self._closed:
            self._closed = True
            _ask("nvmlShutdown")

    @property
    def is_part(self) -> bool:
        """Whether it is a part of a GPU (MIG), which has neither power nor energy of its own."""
        return self._board is not self._handle

    @property
    def uuid(self) -> str | None:
        """`GPU-…`, or `MIG-…` for a part of one."""
        return _text(_ask("nvmlDeviceGetUUID", self._handle))

    def state(self) -> GpuState:
        """How it is now: four questions to the driver."""
        return GpuState(
            sm_clock_hz=_scaled(self._of_board("nvmlDeviceGetClockInfo", _constant("NVML_CLOCK_SM")), _MHZ),
            temperature_c=_scaled(self._temperature()),
            power_w=self.power_w(),
            reasons=self._reasons(),
        )

    def power_w(self) -> float | None:
        """Watts that the board takes; None for a part of a GPU."""
        return None if self.is_part else _scaled(self._of_board("nvmlDeviceGetPowerUsage"), 1e-3)

    def energy_j(self) -> float | None:
        """Joules that the board has used since its driver was loaded; the counter moves every 20 to 100 ms.

        None before Volta, and for a part of a GPU.
        """
        if self.is_part:
            return None
        return _scaled(self._of_board("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def describe(self) -> dict[str, Any]:
        """What it is and how it is set; JSON-able.

        `name uuid driver vbios`; clocks as `sm_clock_max_hz sm_clock_default_hz sm_clock_set_hz
        memory_clock_max_hz`; `power_limit_w power_limit_default_w persistence ecc mig`; `processes`, which
        compute on it now, as `{"pid", "memory_bytes"}` (pids as the machine counts them, not a container).
        """
        sm, memory = _constant("NVML_CLOCK_SM"), _constant("NVML_CLOCK_MEM")
        return {
            "name": _text(_ask("nvmlDeviceGetName", self._handle)),
            "uuid": self.uuid,
            "driver": driver_version(),
            "vbios": _text(self._of_board("nvmlDeviceGetVbiosVersion")),
            "sm_clock_max_hz": _scaled(self._of_board("nvmlDeviceGetMaxClockInfo", sm), _MHZ),
            "sm_clock_default_hz": _scaled(self._of_board("nvmlDeviceGetDefaultApplicationsClock", sm), _MHZ),
            "sm_clock_set_hz": _scaled(self._of_board("nvmlDeviceGetApplicationsClock", sm), _MHZ),
            "memory_clock_max_hz": _scaled(self._of_board("nvmlDeviceGetMaxClockInfo", memory), _MHZ),
            "power_limit_w": self._power_limit_w(),
            "power_limit_default_w": _scaled(
                self._of_board("nvmlDeviceGetPowerManagementDefaultLimit"), 1e-3
            ),
            "persistence": _switch(self._of_board("nvmlDeviceGetPersistenceMode")),
            "ecc": _switch(self._of_board("nvmlDeviceGetEccMode")),
            "mig": _switch(self._of_board("nvmlDeviceGetMigMode")),
            "processes": self._processes(),
        }

    def _of_board(self, name: str, *arguments: Any) -> Any:
        return _ask(name, self._board, *arguments)

    def _temperature(self) -> Any:
        sensor = _constant("NVML_TEMPERATURE_GPU")
        found = self._of_board("nvmlDeviceGetTemperature", sensor)  # to be taken out of CUDA 14
        return self._of_board("nvmlDeviceGetTemperatureV", sensor) if found is None else found

    def _reasons(self) -> tuple[str, ...] | None:
        bits = self._of_board("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # a driver or a pynvml from before CUDA 12.2
            bits = self._of_board("nvmlDeviceGetCurrentClocksThrottleReasons")
        if bits is None:
            return None
        return tuple(name for bit, name in REASONS.items() if int(bits) & bit)

    def _power_limit_w(self) -> float | None:
        """What is enforced, by whomever; else what was set."""
        limit = self._of_board("nvmlDeviceGetEnforcedPowerLimit")
        return _scaled(limit or self._of_board("nvmlDeviceGetPowerManagementLimit"), 1e-3)

    def _processes(self) -> list[dict[str, int | None]] | None:
        found = _ask("nvmlDeviceGetComputeRunningProcesses", self._handle)
        if found is None:
            return None
        return [{"pid": int(each.pid), "memory_bytes": each.usedGpuMemory} for each in found]


def driver_version() -> str | None:
    """The NVIDIA driver's version, such as `570.86.15`."""
    if not _initialised():
        return None
    version = _text(_ask("nvmlSystemGetDriverVersion"))
    _ask("nvmlShutdown")
    return version


def _initialised() -> bool:
    """Whether NVML can be asked; if so it counts one more user, to be taken off by nvmlShutdown."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, not allowed: there is no GPU to be asked
        return False
    return True


def _ask(name: str, *arguments: Any) -> Any:
    """What NVML's function `name` answers; None where it fails, or is not known to this pynvml."""
    import pynvml

    try:
        return getattr(pynvml, name)(*arguments)
    except Exception:  # NVMLError by the dozen, and whatever ctypes raises where the library is older
        return None


def _constant(name: str) -> int:
    import pynvml

    return int(getattr(pynvml, name))


def _scaled(figure: Any, scale: float = 1) -> float | None:
    return None if figure is None else figure * scale


def _switch(state: Any) -> bool | None:
    """A mode that is on or off; of a pair (now, after the next reset) the first."""
    if isinstance(state, list | tuple):
        state = state[0]
    return None if state is None else bool(state)


def _text(value: Any) -> str | None:
    """Text, which older versions of pynvml give as bytes."""
    return value.decode() if isinstance(value, bytes) else value
