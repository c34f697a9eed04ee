"""The files of cookbook/serve, as far as they can be checked without Docker."""

import json
import re
from pathlib import Path

import yaml
from typer.testing import CliRunner

from unirouter_plugins.cli import app

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cookbook" / "serve"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()


def test_the_references_of_the_compose_file_hold():
    compose = yaml.safe_load((FOLDER / "compose.yml").read_text())
    services, build = compose["services"], compose["services"]["proxy"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).read_text() == DOCKERFILE
    for service in services.values():
        for name, needs in service.get("depends_on", {}).items():
            assert needs == {"condition": "service_healthy"}
            assert "healthcheck" in services[name] or ("build" in services[name] and "HEALTHCHECK" in DOCKERFILE)
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source.startswith("${") or source in compose["volumes"] or (FOLDER / source).is_file()
    own = services["proxy"]["environment"]
    assert re.fullmatch(r"postgresql://unirouter:\$\{.+\}@postgres:5432/unirouter", own["DATABASE_URL"])
    assert own["REDIS_URL"] == "redis://redis:6379"
    assert "server proxy:4000 resolve" in (FOLDER / "nginx.conf").read_text()


def test_the_image_s_command_serves_the_mounted_folder(router, tmp_path, monkeypatch):
    (name, command), options = (
        re.findall(r'"([^"]+)"', re.findall("^ENTRYPOINT (.*)$", DOCKERFILE, re.M)[0]),
        (json.loads(re.findall("^CMD (.*)$", DOCKERFILE, re.M)[0])),
    )
    router.save(tmp_path / options[0])
    called = "".join(f'[models.{name}]\nmodel = "openai/{name}"\n' for name in router.pool)
    (tmp_path / "pool.toml").write_text(called)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-of-the-test")
    monkeypatch.setenv("REDIS_URL", "redis://redis:6379")
    printed = CliRunner().invoke(app, [command, *options, "--config-only"])
    assert (name, printed.exit_code) == ("unirouter", 0), printed.output
    config = yaml.safe_load(printed.stdout)
    assert len(config["model_list"]) == len(router.pool)
    assert config["general_settings"]["master_key"] == "os.environ/LITELLM_MASTER_KEY"
    assert config["router_settings"]["redis_url"] == "os.environ/REDIS_URL"
    assert config["environment_variables"]["UNIROUTER_ROUTER"] == str(tmp_path / "my.router")
