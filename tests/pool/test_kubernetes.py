"""docker/kubernetes: each field is one that Kubernetes and KubeRay have, and the pool in it can be planned."""

from __future__ import annotations

import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT
from tokmagic.core.config import TokMagic
from tokmagic.engines.registry import Models
from tokmagic.pool.plan import plan_of

FOLDER = ROOT / "docker" / "kubernetes"


def obj(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object that has no other fields than these."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
NAMED = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}


def several(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


META = obj("name", name=NAMED)
CONTAINER = obj(
    "name image",
    name=NAMED,
    image=TEXT,
    envFrom=several(obj("secretRef", secretRef=obj("name", name=NAMED))),
    env=several(obj("name value", name=TEXT, value=TEXT)),
    ports=several(obj("containerPort", name=NAMED, containerPort={"type": "integer", "minimum": 1, "maximum": 65535})),
    resources=obj(requests=QUANTITIES, limits=QUANTITIES),
    securityContext=obj(allowPrivilegeEscalation=FLAG, capabilities=obj(drop=several(TEXT))),
    volumeMounts=several(obj("name mountPath", name=NAMED, mountPath={"type": "string", "pattern": "^/"})),
)
POD = obj(
    "spec",
    spec=obj(
        "containers",
        terminationGracePeriodSeconds=COUNT,
        securityContext=obj(runAsNonRoot=FLAG, runAsUser=COUNT, fsGroup=COUNT),
        containers=several(CONTAINER),
        volumes=several(
            obj("name emptyDir", name=NAMED, emptyDir=obj(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY))
        ),
    ),
)
# As KubeRay 1.5 has them (its API reference, ray.io/v1): rayStartParams are texts, also where they are numbers.
GROUP = {"rayStartParams": TEXTS, "template": POD}
RAY_SERVICE = obj(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=META,
    spec=obj(
        "serveConfigV2 rayClusterConfig",
        serveConfigV2=TEXT,
        rayClusterConfig=obj(
            "rayVersion headGroupSpec workerGroupSpecs",
            rayVersion=TEXT,
            authOptions=obj(mode={"enum": ["token", "disabled"]}),
            enableInTreeAutoscaling=FLAG,
            headGroupSpec=obj("rayStartParams template", **GROUP),
            workerGroupSpecs=several(
                obj(
                    "groupName rayStartParams template",
                    groupName=NAMED,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    replicas=COUNT,
                    **GROUP,
                )
            ),
        ),
    ),
)
SECRET = obj(
    "apiVersion kind metadata",
    apiVersion={"const": "v1"},
    kind={"const": "Secret"},
    metadata=META,
    type={"const": "Opaque"},
    stringData=TEXTS,
)


def read(name: str) -> dict[str, Any]:
    (found,) = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return dict(found)


@pytest.fixture
def service() -> dict[str, Any]:
    return read("pool.yaml")


def pods(service: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_every_field_is_one_that_there_is(service: dict[str, Any]) -> None:
    jsonschema.validate(service, RAY_SERVICE)
    jsonschema.validate(read("secret.yaml"), SECRET)
    assert {path.name for path in FOLDER.iterdir()} == {"pool.yaml", "secret.yaml"}


@pytest.mark.parametrize("path", [("spec", "replicas"), ("spec", "rayClusterConfig", "headGroupSpec", "replica")])
def test_a_field_that_there_is_not_is_found(service: dict[str, Any], path: tuple[str, ...]) -> None:
    wrong = deepcopy(service)
    place = wrong
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, RAY_SERVICE)


def test_pods_have_the_secret_no_rights_and_the_volumes_that_they_mount(service: dict[str, Any]) -> None:
    secret = read("secret.yaml")["metadata"]["name"]
    for pod in pods(service):
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": secret}}]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_nothing_in_the_secret_is_one(service: dict[str, Any]) -> None:
    told = read("secret.yaml")["stringData"]
    assert {name for name, value in told.items() if value} == {"TOKMAGIC_LEDGER"}
    assert "@ledger.example.org/" in told["TOKMAGIC_LEDGER"]


def test_its_pool_can_be_planned_and_fits_the_pods(service: dict[str, Any]) -> None:
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    (app,) = config["applications"]
    assert app["import_path"] == "tokmagic.pool.deployments:from_args"
    options = dict(app["args"])
    plan = plan_of(Models(TokMagic()), options.pop("models"), options)
    head, worker = pods(service)
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (plan.scale.least, plan.scale.most)
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(int(plan.scale.gpus))
    assert {port["containerPort"] for port in head["containers"][0]["ports"]} >= {config["http_options"]["port"]}
    assert all(pod["terminationGracePeriodSeconds"] > plan.drain_s for pod in (head, worker))


CHECK = """
import sys, yaml
from ray.serve.schema import ServeDeploySchema
ServeDeploySchema.model_validate(yaml.safe_load(sys.stdin))
"""


@pytest.mark.slow
def test_ray_serve_takes_its_configuration(service: dict[str, Any], pool_python: Path) -> None:
    done = subprocess.run(
        [str(pool_python), "-W", "error::DeprecationWarning:ray", "-c", CHECK],
        input=service["spec"]["serveConfigV2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
