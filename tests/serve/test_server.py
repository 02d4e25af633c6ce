"""The server in a process of its own: by the official client, by raw HTTP, and by those who mean it harm."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import pytest
from PIL import Image
from running_server import DEMO, KEY, NAME, RunningServer, data_url, image_part

openai = pytest.importorskip("openai")

QUESTION = "Frame the shape in the picture."
LONG = {"temperature": 90.0, "top_k": 0, "top_p": 1.0, "max_tokens": 380, "seed": 4}  # random tokens, hardly an end


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)


def user(demo, text: str) -> list[dict]:
    return [{"role": "user", "content": [image_part(data_url(demo)), {"type": "text", "text": text}]}]


def test_the_answer_is_that_of_chat_and_so_is_the_next_turn(client, tiny_chat, demo, tmp_path):
    model, template = tiny_chat
    (tmp_path / "image1").write_bytes(demo.read_bytes())
    settings = {"dataset_dir": tmp_path, "max_new_tokens": 64}
    expected, history = model.chat(template, [{"image": "image1"}, {"text": QUESTION}], **settings)
    messages = user(demo, QUESTION)
    found = client.chat.completions.create(model=NAME, messages=messages)
    assert found.choices[0].message.content == expected and "<box>" in expected
    assert found.choices[0].finish_reason == "stop" and found.object == "chat.completion" and found.id
    usage = found.usage
    assert usage.prompt_tokens > 64 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    messages += [found.choices[0].message.model_dump(), {"role": "user", "content": "What color is it?"}]
    expected, _ = model.chat(template, "What color is it?", history, **settings)
    assert client.chat.completions.create(model=NAME, messages=messages).choices[0].message.content == expected


def test_a_stream_is_the_same_answer(client, server, demo):
    messages = user(demo, QUESTION)
    whole = client.chat.completions.create(model=NAME, messages=messages)
    stream = client.chat.completions.create(
        model=NAME, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and not any(chunk.usage for chunk in chunks)
    assert last.usage == whole.usage and last.choices == []
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    status, headers, body = server.request(
        "/v1/chat/completions", {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    )
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    assert body.endswith(b"data: [DONE]\n\n")


def test_log_probabilities_stops_several_answers_and_seeds(client):
    ask = client.chat.completions.create
    settings = {
        "model": NAME,
        "messages": [{"role": "user", "content": "What is it?"}],
        "temperature": 3.0,
        "top_p": 1.0,
        "max_tokens": 9,
    }
    several = ask(**settings, n=3, seed=7, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in several.choices}) > 1
    again = ask(**settings, n=3, seed=7, logprobs=True, top_logprobs=2)
    assert again.choices == several.choices
    content = several.choices[0].logprobs.content
    assert 1 <= len(content) <= 9 and all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in content)
    told = b"".join(bytes(token.bytes) for token in content).decode("utf-8", "replace")
    assert told.strip() == several.choices[0].message.content
    streamed = list(ask(**settings, n=3, seed=7, stream=True))
    for number, choice in enumerate(several.choices):
        own = [each for chunk in streamed for each in chunk.choices if each.index == number]
        assert "".join(each.delta.content or "" for each in own) == choice.message.content
    text = several.choices[1].message.content
    stopped = ask(**settings, n=3, seed=7, stop=[text[2:4], "never said"])
    assert stopped.choices[1].message.content == text[: text.index(text[2:4])]
    assert stopped.choices[1].finish_reason == "stop"
    short = ask(**settings | {"max_tokens": 1, "temperature": 0})
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 1


def test_many_clients_at_once_have_the_answers_that_they_have_alone(client, demo):
    asked = [
        {"messages": user(demo, QUESTION) if number % 3 == 0 else [{"role": "user", "content": f"Is it {number}?"}],
         "temperature": 2.0, "top_p": 1.0, "seed": number, "max_tokens": 5 + number}
        for number in range(10)
    ]  # fmt: skip

    def answer(fields) -> str:
        return client.chat.completions.create(model=NAME, **fields).choices[0].message.content

    alone = [answer(fields) for fields in asked]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(answer, asked)) == alone


WRONG = [
    ({"tools": []}, "tools", "'tools' is unknown"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": "5"}, "max_tokens", "valid integer"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, None, "differ"),
    ({"max_tokens": 500}, None, "there is room for 512"),
    ({"temperature": -1}, "temperature", "greater than or equal to 0"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"n": 5}, None, "5 answers at once are more than the 4"),
    ({"stop": ""}, None, "stop: an empty text"),
    ({"top_logprobs": 3}, None, "no use without logprobs"),
    ({"presence_penalty": 0.5}, "presence_penalty", "less than or equal to 0"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "should be 'text'"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, None, "does not think"),
    ({"mm_processor_kwargs": {"dataset_dir": "/"}}, None, "unknown dataset_dir"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, None, "take turns"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, None, "the user first"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, None, "must be the user's"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text", "is missing"),
    ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages.0.x", "unknown"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]},
     "messages.0.content.0.image_url", "should be an object"),
    ({"messages": [{"role": "tool", "content": ""}]}, "messages.0", "expected tags"),
    ({"model": "other"}, "model", "this server has: tiny"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field", "said"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_what_is_wrong_is_named(server, fields, field, said):
    status, body = server.chat("Hi", **fields)
    assert status == (404 if field == "model" else 400)
    error = body["error"]
    assert said in error["message"] and error["type"] == "invalid_request_error"
    assert field is None or error["param"].startswith(field)


def noise(side: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


HOSTILE = [
    ("http://127.0.0.1:1/a.png", "nothing is fetched"),
    ("https://example.org/a.png", "nothing is fetched"),
    ("/etc/hostname", "nothing is fetched"),
    ("data:image/png,abc", "expected data:image"),
    ("data:image/png;base64,ab!c", "base64 is damaged"),
    ("data:image/png;base64,", "image1 is empty"),
    ("data:video/mp4;base64,AAAA", "expected data:image"),
    ("data:image/png;base64,AAAA", "is not an image file"),
    ("data:image/svg+xml;base64,PHN2Zz48aW1hZ2UgaHJlZj0iL2V0Yy9wYXNzd2QiLz48L3N2Zz4=", "is not an image file"),
    (noise(1001), "1001×1001 pixels are more than the 1,000,000"),
    ("file:///etc/hostname", "below the directory"),
    ("file://example.org/etc/hostname", "below the directory"),
    ("file://{allowed}/../secret.png", "below the directory"),
    ("file://{allowed}/%2e%2e/secret.png", "below the directory"),
    ("file://{allowed}/link.png", "below the directory"),
    ("file://{allowed}/none.png", "below the directory"),
    ("file://{allowed}", "below the directory"),
    ("file://{allowed}/a%00b", "below the directory"),
    ("file://{allowed}/text.txt", "is not an image file"),
]


def test_media_are_confined_and_bounded(server, allowed, demo):
    status, body = server.chat([image_part(f"file://{allowed}/a%20picture.png"), {"type": "text", "text": QUESTION}])
    assert status == 200 and "<box>" in body["choices"][0]["message"]["content"]
    for url, said in HOSTILE:
        status, body = server.chat([image_part(url.format(allowed=allowed)), {"type": "text", "text": QUESTION}])
        assert status == 400 and said in body["error"]["message"], url
        assert str(allowed.parent) not in body["error"]["message"].replace(url.format(allowed=allowed), "")
        assert "/tmp" not in body["error"]["message"].replace(url.format(allowed=allowed), "")
    status, body = server.chat([image_part(data_url(demo))] * 4)
    assert status == 400 and "more than 3 images" in body["error"]["message"]
    status, body = server.chat([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}])
    assert status == 400 and "messages.0.content.0: this model takes images only" in body["error"]["message"]


def test_what_is_said_opens_no_file(server, allowed):
    target = allowed.parent / "secret.png"
    tag = f"<img>{target}</img>"
    said = [
        [{"role": "user", "content": tag}],
        [{"role": "user", "content": [{"type": "text", "text": tag}]}],
        [{"role": "system", "content": tag}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": tag}, {"role": "user", "content": "?"}],
        [{"role": "user", "content": tag}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "?"}],
        [{"role": "user", "content": [{"type": "text", "text": "<img>"}, {"type": "text", "text": f"{target}</img>"}]}],
    ]
    for messages in said:
        status, _, body = server.request("/v1/chat/completions", {"model": NAME, "messages": messages})
        assert status == 400 and "mark-up" in json.loads(body)["error"]["message"]
    audit = server.audit.read_text()
    assert "open" in audit and "a picture.png" not in audit.replace("image1", "")  # links are opened by their names
    assert "secret.png" not in audit and "/etc/hostname" not in audit
    assert "socket.connect" not in audit, "something was fetched"
    (allowed.parent / "audit control").write_text(audit)


def test_raw_requests(server):
    post = lambda body, **headers: server.request("/v1/chat/completions", body, **headers)  # noqa: E731
    assert post(b"{", Content_Type="text/plain")[0] == 415
    for body in (b"", b"{", b"[]", b"null", b'"\xff"', b'{"model": NaN}', b"[" * 100_000, b'{"a": 1e999}'):
        status, _, answer = post(body)
        assert status == 400 and json.loads(answer)["error"]["message"], body[:20]
    assert post(b" " * (1 << 20) + b"{}")[0] == 413
    assert server.request("/v1/models", Authorization="Bearer other")[0] == 401
    assert server.request("/metrics", Authorization="")[0] == 401
    assert server.request("/health", Authorization="")[0] == 200
    assert server.request("/v1/none")[0] == 404
    assert server.request("/v1/chat/completions")[0] == 405
    assert json.loads(server.request("/v1/models")[2])["data"][0]["id"] == NAME
    assert json.loads(server.request(f"/v1/models/{NAME}")[2])["max_model_len"] == 512
    address = urlparse(server.url)
    with socket.create_connection((address.hostname, address.port)) as raw:
        raw.sendall(b"\x00\x01\x02 nonsense\r\n\r\n")
        assert b"400" in raw.recv(1000)
    with socket.create_connection((address.hostname, address.port)) as raw:  # and goes away amid its body
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        raw.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode())
    status, body = server.chat("\ud800")
    assert status == 400 and "hex escape" in body["error"]["message"]


def test_the_metrics_tell_of_requests_tokens_the_queue_and_times(server):
    before = {name: server.metric(name) for name in ("vlm_generated_tokens_total", "vlm_prompt_tokens_total")}
    usage = server.chat("Hi", max_tokens=3)[1]["usage"]
    lines = server.request("/metrics")[2].decode().splitlines()
    assert (
        server.metric("vlm_generated_tokens_total") == before["vlm_generated_tokens_total"] + usage["completion_tokens"]
    )
    assert server.metric("vlm_prompt_tokens_total") == before["vlm_prompt_tokens_total"] + usage["prompt_tokens"]
    assert server.metric("vlm_running") == server.metric("vlm_waiting") == 0
    for name in ("time_to_first_token_seconds", "time_per_output_token_seconds", "request_seconds"):
        counts = [float(line.split()[-1]) for line in lines if line.startswith(f"vlm_{name}_bucket")]
        assert counts == sorted(counts) and counts[-1] == server.metric(f"vlm_{name}_count") > 0
        assert server.metric(f"vlm_{name}_sum") > 0
    deadline = time.monotonic() + 5
    while not server.metric("vlm_generated_tokens_per_second"):
        assert time.monotonic() < deadline, "tokens of this second are told in the next one"
        time.sleep(0.1)
    told = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(set(told)) == len(told) and all(line.startswith(("#", "vlm_")) for line in lines)


def test_a_client_that_goes_away_stops_its_answer(server):
    address, gone = urlparse(server.url), 'vlm_requests_total{status="499"}'
    before = server.metric(gone)
    for stream in (True, False):
        connection = http.client.HTTPConnection(address.hostname, address.port)
        fields = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **LONG}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(fields), headers)
        if stream:
            connection.getresponse().read(300)
        else:
            while not server.metric("vlm_running"):
                time.sleep(0.005)
        connection.sock.close() if connection.sock else None
        connection.close()
        for _ in range(200):
            if not server.metric("vlm_running"):
                break
            time.sleep(0.02)
    assert server.metric(gone) == before + 2 and server.metric("vlm_running") == 0


def test_a_full_queue_says_when_to_come_back(server):
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], **LONG}
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda _: server.request("/v1/chat/completions", body), range(24)))
    assert {status for status, _, _ in found} == {200, 429}
    assert all(headers["retry-after"] for status, headers, _ in found if status == 429)
    answers = {json.loads(body)["choices"][0]["message"]["content"] for status, _, body in found if status == 200}
    assert len(answers) == 1


def test_the_log_tells_of_requests_and_not_what_was_said(server):
    log = server.log.read_text()
    assert "status 200" in log and "refused with 400" in log
    assert QUESTION not in log and "Traceback" not in log


def test_told_to_end_it_finishes_what_it_answers(tmp_path, request):
    running = RunningServer(tmp_path, "--max_length", "512", "--log_prompts", key=None)
    request.addfinalizer(running.process.kill)
    shown = data_url(DEMO)
    assert running.chat([image_part(shown), {"type": "text", "text": "Is it logged?"}], max_tokens=1)[0] == 200
    log = running.log.read_text()
    assert "user: '[image_url] Is it logged?'" in log and shown[:99] not in log
    assert running.request("/health", Host="evil.example")[0] == 421
    assert running.request("/health", Host="localhost:1")[0] == 200
    client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    extra = {"extra_body": {"top_k": LONG["top_k"]}, **{key: LONG[key] for key in LONG if key != "top_k"}}
    stream = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "Hi"}], stream=True, **extra
    )
    first = next(iter(stream))
    running.process.terminate()
    *_, last = stream
    assert first.choices[0].delta.role == "assistant" and last.choices[0].finish_reason in ("stop", "length")
    assert running.process.wait(30) == 0
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_a_request_that_takes_too_long_ends_with_504(tmp_path, request):
    running = RunningServer(tmp_path, "--max_length", "512", "--request_seconds", "0.05", key=None)
    request.addfinalizer(running.process.kill)
    status, body = running.chat("Hi", **LONG)
    assert status == 504 and body["error"]["code"] == "time_limit" and body["error"]["type"] == "server_error"
    fields = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "stream": True, **LONG}
    status, _, body = running.request("/v1/chat/completions", fields)
    *_, last = body.decode().strip().split("\n\n")
    assert status == 200 and json.loads(last.removeprefix("data: "))["error"]["code"] == "time_limit"
    assert running.metric('vlm_requests_total{status="504"}') == 2 and running.metric("vlm_running") == 0
    assert running.end() == 0 and "Traceback" not in running.log.read_text()
