"""What scripts do with py-tes, in words that its versions 0.4 and 1.1 share.

Arguments: the server's URL, the shared directory, the image, the version.
"""

import sys
import time

import requests
import tes

url, shared, image, version = sys.argv[1:]
old = version.startswith("0.")
client = tes.HTTPClient(url, timeout=10)


def task(name, script, **more):
    executor = tes.Executor(image=image, command=["/bin/sh", "-c", script], **more.pop("executor", {}))
    resources = tes.Resources(cpu_cores=1, ram_gb=0.125, disk_gb=0.25)
    return tes.Task(name=name, executors=[executor], resources=resources, **more)


def check(condition, *what):
    if not condition:
        raise SystemExit(f"wrong: {what}")


def wait(id, states):
    deadline = time.time() + 120
    while True:
        state = client.get_task(id, "MINIMAL").state
        if state in states:
            return state
        check(time.time() < deadline, id, state)
        time.sleep(0.1)


def service_info():
    info = client.get_service_info()
    check(info.name == "Teamster", info)
    check(any(shared == entry.removeprefix("file://") for entry in info.storage), info)
    if not old:
        check(info.type["artifact"] == "tes", info)


def files():
    sent = task(
        "files",
        "cat /in/text > /out/copy; echo to-stdout; echo to-stderr >&2",
        description="a file there and back",
        inputs=[tes.Input(path="/in/text", content="content\n", type="FILE", name="n")],
        outputs=[tes.Output(path="/out/copy", url=f"file://{shared}/py-{version}/copy", type="FILE")],
        volumes=["/scratch"],
        tags={"client": "py-tes", "version": version},
        executor={"env": {"A": "1"}, "workdir": "/scratch", "stdout": "/scratch/log"},
    )
    id = client.create_task(sent)
    check(client.wait(id, timeout=120).state == "COMPLETE", id)
    full = client.get_task(id, "FULL")
    for field in ["name", "description", "inputs", "outputs", "volumes", "tags", "executors", "resources"]:
        check(getattr(full, field) == getattr(sent, field), field, getattr(full, field))
    log = full.logs[-1]
    check(log.outputs[0].size_bytes == len("content\n"), log)
    check(log.logs[0].exit_code == 0 and log.logs[0].stdout == "to-stdout\n", log)
    check(log.logs[0].stderr == "to-stderr\n" and log.start_time < log.end_time, log)
    basic = client.get_task(id)
    check(basic.inputs[0].content is None and not basic.logs[0].logs[0].stdout, basic)
    check(open(f"{shared}/py-{version}/copy").read() == "content\n")


def ends():
    id = client.create_task(task("fails", "exit 7"))
    check(wait(id, ["EXECUTOR_ERROR"]), id)
    check(client.get_task(id, "FULL").logs[0].logs[0].exit_code == 7, id)
    missing = [tes.Input(path="/in/x", url=f"{shared}/not-there", type="FILE")]
    id = client.create_task(task("missing", "true", inputs=missing))
    check(wait(id, ["SYSTEM_ERROR"]), id)
    check("not-there" in " ".join(client.get_task(id, "FULL").logs[-1].system_logs), id)
    id = client.create_task(task("canceled", "while :; do sleep 0.1; done"))
    wait(id, ["RUNNING"])
    client.get_task(id, "FULL")
    client.cancel_task(id)
    wait(id, ["CANCELED"])
    client.cancel_task(id)
    client.get_task(id, "FULL")


def lists():
    listed, token = [], None
    while True:
        page = client.list_tasks(view="FULL", page_size=2, page_token=token)
        check(len(page.tasks) <= 2, page)
        listed += page.tasks
        token = page.next_page_token
        if not token:
            break
    mine = [entry.name for entry in listed]
    check(mine == ["canceled", "missing", "fails", "files"], mine)
    check(len(client.list_tasks().tasks) == 4)


def refusals():
    def refused(code, act):
        try:
            act()
        except requests.HTTPError as error:
            body = error.response.json()
            check(error.response.status_code == code, error)
            check(set(body) == {"status_code", "msg"} and body["status_code"] == code, body)
        else:
            check(False, code)

    refused(404, lambda: client.get_task("nobody-knows-it"))
    refused(404, lambda: client.cancel_task("nobody-knows-it"))
    nowhere = [tes.Input(path="/in/x", url="gopher://host/x", type="FILE")]
    refused(400, lambda: client.create_task(task("refused", "true", inputs=nowhere)))


for step in [service_info, files, ends, lists, refusals]:
    step()
    print("right:", step.__name__)
