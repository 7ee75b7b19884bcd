"""MiniClaw: an agent system in one component; an application's `role` picks the class."""

from claw.agent import AgentActor
from claw.approval import ApprovalActor
from claw.audit import AuditEventActor
from claw.fsm import AgentStateFSM
from claw.health import HealthMonitorActor
from claw.memory import MemoryActor
from claw.orchestrator import DelegateActor, OrchestratorActor
from claw.registry import ToolRegistryActor
from claw.router import LLMRouterActor
from claw.session import SessionManagerActor
from claw.task_queue import TaskQueueActor, TaskWorkerActor
from claw.tools.calculator import CalculatorToolActor
from claw.tools.python import PythonRunnerActor, PythonSandboxActor
from claw.tools.web import HttpGetToolActor, WeatherToolActor, WebSearchToolActor

ACTOR_REGISTRY = {
    # The ten.
    "agent": AgentActor,
    "llm_router": LLMRouterActor,
    "tool_registry": ToolRegistryActor,
    "session_manager": SessionManagerActor,
    "memory": MemoryActor,
    "audit": AuditEventActor,
    "agent_fsm": AgentStateFSM,
    "orchestrator": OrchestratorActor,
    "task_queue": TaskQueueActor,
    "health_monitor": HealthMonitorActor,
    # The tools.
    "calculator": CalculatorToolActor,
    "weather": WeatherToolActor,
    "web_search": WebSearchToolActor,
    "http_get": HttpGetToolActor,
    "python_sandbox": PythonSandboxActor,
    # Those who do one thing for one of the ten.
    "python_runner": PythonRunnerActor,
    "approval": ApprovalActor,
    "delegate": DelegateActor,
    "task_worker": TaskWorkerActor,
}
