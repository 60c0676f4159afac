"""Official Meta-World environments, computing the same bits in less time.

`fast_class(OFFICIAL)` is a subclass of an official environment class. Physics, tasks and rewards stay the official
code: the subclass runs the official methods of the task as they are, but hands them quicker versions of the helpers
that they call. What is replaced, and why it took time (microseconds of a call, of about 1000 of a pick-place step):

| replaced | why |
|---|---|
| `touching_object` | two Python loops over MuJoCo's list of contacts, one object each (250) |
| `Rotation.from_matrix(...).as_quat()` | scipy's checks and dispatch for one 3 x 3 matrix (130) |
| `_get_obs`, `_get_curr_obs_combined_no_goal`, `step` | stacking and clipping arrays of 1 to 39 numbers |
| `tolerance`, `_gripper_caging_reward`, `norm` | array functions on single numbers and on three |
| `get_body_com`, `_get_site_pos`, `tcp_center`, ... | a search by name at every call; the views are kept (1.7) |
| `do_simulation` | checks, and `mj_rnePostConstraint`, whose results nothing reads (3) |
| `reset` | settles the hand twice; of the first time only what it puts into the model counts (half of a reset) |
| `_initialize_simulation` | parses the XML again for every environment of a task (300 000, once) |

Every replacement was derived from one version and is used with that one alone; the test of parity compares whole
episodes of all 50 tasks bit for bit. Where an argument is not of the kind that a quick version is for, it calls the
official one. Types are part of the bits: numpy computes `np.float32 * float` in single precision and
`np.float32 * np.float64` in double.
"""

from __future__ import annotations

import copy
import math
import types
import warnings
import weakref
from functools import cache
from importlib.metadata import version
from typing import Any

import metaworld.sawyer_xyz_env
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils

DERIVED_FROM = "3.1.1"
"""The version of metaworld whose methods these are."""


def environment_class(task_name: str) -> type[SawyerXYZEnv]:
    """The class of a task, e.g. `reach-v3`: fast, or with another version of metaworld the official one."""
    official = ALL_V3_ENVIRONMENTS[task_name]
    return fast_class(official) if _is_known_version() else official


@cache
def _is_known_version() -> bool:
    installed = version("metaworld")
    if installed != DERIVED_FROM:
        warnings.warn(
            f"metaworld {installed} runs unchanged: the fast versions of its methods are for {DERIVED_FROM}",
            stacklevel=3,
        )
    return installed == DERIVED_FROM


@cache
def fast_class(official: type[SawyerXYZEnv]) -> type[SawyerXYZEnv]:
    """A subclass of an official class: its own methods with quick helpers, and quick versions of the inherited ones."""
    methods = {name: value for name, value in vars(_QuickMethods).items() if not name.startswith("__")}
    own = {name: _with_quick_helpers(value) for name, value in vars(official).items() if not name.startswith("__")}
    return type(official.__name__, (official,), methods | own)


def _with_quick_helpers(attribute: Any) -> Any:
    """The same code, which finds `np.linalg.norm`, `reward_utils` and `Rotation` to be the quick ones."""
    if isinstance(attribute, property):
        return property(_with_quick_helpers(attribute.fget))
    if isinstance(attribute, staticmethod):
        return staticmethod(_with_quick_helpers(attribute.__func__))
    if not isinstance(attribute, types.FunctionType):
        return attribute
    if attribute.__module__ == metaworld.sawyer_xyz_env.__name__:
        # The official decorator around `evaluate_state`; what it asserts, `step` has asserted.
        assert attribute.__closure__ is not None
        attribute = attribute.__closure__[0].cell_contents
    helpers = {name: quick for name, quick in _QUICK_HELPERS.items() if name in attribute.__globals__}
    function = types.FunctionType(
        attribute.__code__,
        attribute.__globals__ | helpers,
        attribute.__name__,
        attribute.__defaults__,
        attribute.__closure__,
    )
    function.__kwdefaults__ = attribute.__kwdefaults__
    return function


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """`np.linalg.norm`; quick for one vector of float64, and for one number."""
    if axis is None and not keepdims and (ord is None or ord == 2):
        if type(x) is np.ndarray and x.ndim == 1 and x.dtype is _FLOAT64:
            x = x.ravel("K")  # contiguous, as the official one: the order of a sum is part of the bits
            return np.float64(math.sqrt(x.dot(x)))
        if type(x) is np.float64 and ord is None:
            return np.float64(math.sqrt(x * x))
    return np.linalg.norm(x, ord, axis, keepdims)


def _tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """`reward_utils.tolerance`; quick for one float64, with the default value at the margin."""
    scale = _SIGMOID_SCALES.get(sigmoid)
    if scale is not None and value_at_margin == 0.1 and (type(x) is np.float64 or type(x) is float):
        lower, upper = bounds
        margin = float(margin)
        if lower <= upper and margin > 0:
            x = float(x)
            if lower <= x <= upper:
                return 1.0
            distance = float(lower - x if x < lower else x - upper) / margin
            try:
                # `**`, which is the C library's pow as in numpy, where a product might round otherwise.
                square = (distance * scale) ** 2
            except OverflowError:
                return 0.0
            return 1 / (square + 1) if sigmoid == "long_tail" else float(np.exp(-0.5 * square))
    return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)


class _QuickRotation:
    """As much of scipy's `Rotation` as the environments use.

    Scipy first makes the matrix orthogonal if it is not so to 1e-12; MuJoCo's are made of unit quaternions and always
    are. The rest is Markley, "Unit quaternion from rotation matrix" (2008), in scipy's order of operations.
    """

    def __init__(self, quaternion: np.ndarray):
        self._quaternion = quaternion

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> _QuickRotation:
        (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
        trace = a + e + i
        largest = max(a, e, i, trace)
        if a == largest:
            x, y, z, w = 1 - trace + 2 * a, d + b, g + c, h - f
        elif e == largest:
            x, y, z, w = b + d, 1 - trace + 2 * e, h + f, c - g
        elif i == largest:
            x, y, z, w = c + g, f + h, 1 - trace + 2 * i, d - b
        else:
            x, y, z, w = h - f, c - g, d - b, 1 + trace
        norm = math.sqrt(x * x + y * y + z * z + w * w)
        return _QuickRotation(np.array((x / norm, y / norm, z / norm, w / norm)))

    def as_quat(self) -> np.ndarray:
        """x, y, z, w."""
        return self._quaternion


_FLOAT64 = np.dtype(np.float64)
_MOCAP_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])
_SIGMOID_SCALES = {"long_tail": math.sqrt(1 / 0.1 - 1), "gaussian": float(np.sqrt(-2 * np.log(0.1)))}

_QUICK_HELPERS = {
    "np": types.SimpleNamespace(
        **{**vars(np), "linalg": types.SimpleNamespace(**{**vars(np.linalg), "norm": _norm})},
    ),
    "reward_utils": types.SimpleNamespace(**{**vars(reward_utils), "tolerance": _tolerance}),
    "Rotation": _QuickRotation,
}

_models: weakref.WeakValueDictionary[str, _SharedModel] = weakref.WeakValueDictionary()


class _SharedModel:
    """A model that some environment plays with, from which another one of its task is copied.

    What an environment changes in its model it sets again at every reset, so one in use is as good as a new one.
    """

    def __init__(self, model: mujoco.MjModel):
        self.model = model


class _QuickMethods:
    """Quick versions of what the official base classes define; a task with one of its own keeps that."""

    def _initialize_simulation(self: Any) -> tuple[mujoco.MjModel, mujoco.MjData]:
        shared = _models.get(self.fullpath)
        if shared is None:
            model, data = SawyerXYZEnv._initialize_simulation(self)
            self._shared_model = _models[self.fullpath] = _SharedModel(model)
        else:
            self._shared_model = shared
            model = copy.copy(shared.model)
            data = mujoco.MjData(model)
        # Views of the simulator's memory, which stays where it is as long as `data` lives.
        self._body_positions: dict[str, np.ndarray] = {}
        self._site_positions: dict[str, np.ndarray] = {}
        self._pads: tuple[int, int] | None = None
        self._rehearsing = False
        self._reach: tuple[float, list[float], list[float]] | None = None
        self._mocap_pos, self._mocap_quat, self._ctrl = data.mocap_pos, data.mocap_quat, data.ctrl
        return model, data

    def get_body_com(self: Any, body_name: str) -> np.ndarray:
        position = self._body_positions.get(body_name)
        if position is None:
            position = self._body_positions[body_name] = self.data.body(body_name).xpos
        return position

    def get_endeff_pos(self: Any) -> np.ndarray:
        return self.get_body_com("hand")

    def _site_view(self: Any, site_name: str) -> np.ndarray:
        position = self._site_positions.get(site_name)
        if position is None:
            position = self._site_positions[site_name] = self.data.site(site_name).xpos
        return position

    def _get_site_pos(self: Any, site_name: str) -> np.ndarray:
        return self._site_view(site_name).copy()

    @property
    def tcp_center(self: Any) -> np.ndarray:
        return (self._site_view("rightEndEffector") + self._site_view("leftEndEffector")) / 2.0

    def set_xyz_action(self: Any, action: np.ndarray) -> None:
        if len(self._mocap_pos) != 1 or action.dtype != np.float32:
            SawyerXYZEnv.set_xyz_action(self, action)
            return
        if self._reach is None:
            self._reach = float(np.float32(self.action_scale)), self.mocap_low.tolist(), self.mocap_high.tolist()
        farthest, low, high = self._reach
        position = self._mocap_pos[0]
        x, y, z = position.tolist()
        # Single precision, as the official product; bounding it is the same as bounding the action.
        dx, dy, dz = (action * self.action_scale).tolist()
        position[0] = min(max(x + min(max(dx, -farthest), farthest), low[0]), high[0])
        position[1] = min(max(y + min(max(dy, -farthest), farthest), low[1]), high[1])
        position[2] = min(max(z + min(max(dz, -farthest), farthest), low[2]), high[2])
        self._mocap_quat[:] = _MOCAP_QUATERNION

    def do_simulation(self: Any, ctrl: Any, n_frames: int) -> None:
        self._ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)

    def _reset_hand(self: Any, steps: int = 50) -> None:
        mocap_id = self.model.body_mocapid[self.data.body("mocap").id]
        position, quaternion = self._mocap_pos[mocap_id], self._mocap_quat[mocap_id]
        for _ in range(0 if self._rehearsing else steps):
            position[:] = self.hand_init_pos
            quaternion[:] = _MOCAP_QUATERNION
            self.do_simulation([-1, 1], self.frame_skip)
        self.init_tcp = self.tcp_center

    def reset(self: Any, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Any]:
        # The official reset calls `reset_model` twice. The first call matters where it puts the task's objects into the
        # model, among which the second settles the hand; what it does to the simulator's state is forgotten.
        self.curr_path_length = 0
        self._rehearsing = True
        self.reset_model()
        self._rehearsing = False
        mujoco.mj_resetData(self.model, self.data)
        observation = self.reset_model()
        self._prev_obs = observation[:18].copy()
        observation[18:36] = self._prev_obs
        return observation, {}

    def step(self: Any, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        if not self._set_task_called:
            raise RuntimeError("You must call env.set_task before using env.step")
        assert len(action) == 4, f"Actions should be size 4, got {len(action)}"
        self.set_xyz_action(action[:3])
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("You must reset the env manually once truncate==True")
        self.do_simulation([action[-1], -action[-1]], self.frame_skip)
        self.curr_path_length += 1
        # The official step moves the target sites here; the next line computes all sites from the model.
        mujoco.mj_forward(self.model, self.data)
        space = self.sawyer_observation_space
        self._last_stable_obs = observation = self._get_obs()
        # `np.clip` without its checks.
        np.minimum(np.maximum(observation, space.low, out=observation), space.high, out=observation)
        reward, info = self.evaluate_state(observation, action)
        return observation.copy(), reward, False, self.curr_path_length == self.max_path_length, info

    def _get_obs(self: Any) -> np.ndarray:
        observation = np.empty(39)
        current = self._get_curr_obs_combined_no_goal()
        observation[:18] = current
        observation[18:36] = self._prev_obs
        observation[36:] = 0.0 if self._partially_observable else self._get_pos_goal()
        self._prev_obs = current
        return observation

    def _get_curr_obs_combined_no_goal(self: Any) -> np.ndarray:
        observation = np.zeros(4 + self._obs_obj_max_len)
        observation[:3] = self.get_body_com("hand")
        between_fingers = self.get_body_com("rightclaw") - self.get_body_com("leftclaw")
        # A gripper is open to about 0.1 m.
        observation[3] = min(max(math.sqrt(between_fingers.dot(between_fingers)) / 0.1, 0.0), 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        if len(positions) == 3 and len(quaternions) == 4:
            observation[4:7] = positions
            observation[7:11] = quaternions
            return observation
        assert len(positions) % 3 == 0
        assert len(quaternions) % 4 == 0
        for index in range(min(len(positions) // 3, len(quaternions) // 4)):
            start = 4 + 7 * index
            observation[start : start + 3] = positions[3 * index : 3 * index + 3]
            observation[start + 3 : start + 7] = quaternions[4 * index : 4 * index + 4]
        return observation

    def touching_object(self: Any, object_geom_id: int) -> bool:
        pads = self._pads
        if pads is None:
            pads = self._pads = self.data.geom("leftpad_geom").id, self.data.geom("rightpad_geom").id
        contact = self.data.contact
        pairs = contact.geom.tolist()
        for pad in pads:
            touching = [n for n, pair in enumerate(pairs) if pad in pair and object_geom_id in pair]
            if not touching or sum(self.data.efc_force[contact.efc_address[n]] for n in touching) <= 0:
                return False
        return True

    def _gripper_caging_reward(
        self: Any,
        action: np.ndarray,
        obj_pos: np.ndarray,
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> float:
        if high_density and medium_density:
            raise ValueError("Can only be either high_density or medium_density")
        tcp, init_tcp, obj_init_pos = self.tcp_center, self.init_tcp, self.obj_init_pos
        object_y, object_init_y = float(obj_pos[1]), float(obj_init_pos[1])
        caging_lr = []
        for pad in ("leftpad", "rightpad"):
            pad_y = float(self.get_body_com(pad)[1])
            caging_lr.append(
                _tolerance(
                    abs(pad_y - object_y),
                    bounds=(obj_radius, pad_success_thresh),
                    margin=abs(abs(pad_y - object_init_y) - pad_success_thresh),
                    sigmoid="long_tail",
                )
            )
        caging_y = reward_utils.hamacher_product(*caging_lr)
        caging_xz = _tolerance(
            _norm((tcp - obj_pos)[::2]),
            bounds=(0, xz_thresh),
            margin=_norm((obj_init_pos - init_tcp)[::2]) - xz_thresh,
            sigmoid="long_tail",
        )
        gripper_closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        caging = reward_utils.hamacher_product(caging_y, float(caging_xz))
        gripping = gripper_closed if caging > 0.97 else 0.0
        caging_and_gripping = reward_utils.hamacher_product(caging, gripping)
        if high_density:
            caging_and_gripping = (caging_and_gripping + caging) / 2
        if medium_density:
            reach = _tolerance(
                _norm(obj_pos - tcp),
                bounds=(0, object_reach_radius),
                margin=abs(_norm(obj_init_pos - init_tcp) - object_reach_radius),
                sigmoid="long_tail",
            )
            caging_and_gripping = (caging_and_gripping + float(reach)) / 2
        return caging_and_gripping
