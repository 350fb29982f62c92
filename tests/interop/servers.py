"""The servers of a run: processes that can be started, stopped and killed, and whose users can be registered."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal

import aiohttp

from client import Person

REGISTRATION_SECRET = "interop"
FEDERATION_PORT = 8448
CLIENT_PORT = 8008
# A server has this long to start or to stop; the machine may be busy.
PATIENCE_SECONDS = 90


class Server:
    """A homeserver with a loopback address of its own, where it also keeps its name across restarts."""

    kind = None
    # Behaviour that some servers lack. The scenarios expect it from a server for which the property is true.
    federates_withdrawn_knocks = True
    has_history_at_first_reading = True
    notifies_others_after_a_restart = True

    def __init__(self, folder, address, authority):
        self.folder = folder
        self.address = address
        self.name = f"{address}:{FEDERATION_PORT}"
        self.url = f"http://{address}:{CLIENT_PORT}"
        self.log = folder / "log"
        self._authority = authority
        self._process = None
        folder.mkdir(parents=True)
        self._certificate, self._key = authority.issue(address)
        self._configure()

    def __str__(self):
        return self.kind

    def _configure(self):
        """Writes the configuration into the folder."""
        raise NotImplementedError

    def _command(self):
        """Returns what starts the server, and what is added to its environment."""
        raise NotImplementedError

    async def start(self):
        """Starts the server and waits until it answers."""
        command, environment = self._command()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "nice",
                *map(str, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._until_it_answers()
        except TimeoutError:
            raise RuntimeError(f"{self.kind} does not answer; see {self.log}") from None

    async def _until_it_answers(self):
        async with aiohttp.ClientSession() as http:
            while True:
                if self._process.returncode is not None:
                    raise RuntimeError(f"{self.kind} ended with {self._process.returncode}; see {self.log}")
                try:
                    async with http.get(f"{self.url}/_matrix/client/versions") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)

    async def runs(self):
        """Starts the server if it does not run."""
        if self._process is None or self._process.returncode is not None:
            await self.start()

    async def stop(self):
        """Ends the server in order."""
        await self._end(signal.SIGTERM)

    async def kill(self):
        """Ends the server as a crash would."""
        await self._end(signal.SIGKILL)

    async def _end(self, how):
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(how)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise RuntimeError(f"{self.kind} did not stop; see {self.log}") from None

    async def register(self, localpart):
        """Makes an account and returns who has it."""
        path = "/_synapse/admin/v1/register"
        person = Person(self)
        nonce = (await person.ask("GET", path))["nonce"]
        password = f"password of {localpart}"
        proof = hmac.new(
            REGISTRATION_SECRET.encode(),
            "\0".join([nonce, localpart, password, "notadmin"]).encode(),
            hashlib.sha1,
        )
        account = {
            "nonce": nonce,
            "username": localpart,
            "password": password,
            "admin": False,
            "mac": proof.hexdigest(),
        }
        person.take_account(await person.ask("POST", path, account), password)
        return person


class Parlour(Server):
    """This project's server."""

    kind = "parlour"
    binary = None

    def _configure(self):
        text = json.dumps
        (self.folder / "config.toml").write_text(
            f"""
[server]
name = {text(self.name)}
public_url = {text(self.url)}
data_dir = {text(str(self.folder / "data"))}

[[listen]]
address = "{self.address}:{CLIENT_PORT}"

[[listen]]
address = {text(self.name)}
tls_certificate = {text(str(self._certificate))}
tls_key = {text(str(self._key))}

[registration]
shared_secret = {text(REGISTRATION_SECRET)}

[passwords]
memory_kib = 8
iterations = 1

[directory]
public_without_login = true

[federation]
trusted_ca = [{text(str(self._authority.path))}]
allow_private_addresses = true
notaries = []

[limits]
enabled = false

[logging]
filter = "info,parlour=debug"
"""
        )

    def _command(self):
        return [self.binary, "--config", self.folder / "config.toml"], {}


class Synapse(Server):
    """The Matrix project's server."""

    kind = "synapse"
    python = None
    federates_withdrawn_knocks = False
    # It answers with what it has and looks for the rest in the background.
    has_history_at_first_reading = False
    notifies_others_after_a_restart = False

    def _configure(self):
        signing_key = base64.b64encode(os.urandom(32)).decode().rstrip("=")
        (self.folder / "signing.key").write_text(f"ed25519 interop {signing_key}\n")
        self._write("log.yaml", self._logging())
        self._write("homeserver.yaml", self._homeserver())

    def _write(self, name, content):
        # JSON is YAML.
        (self.folder / name).write_text(json.dumps(content, indent=1))

    def _logging(self):
        return {
            "version": 1,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request)s] %(message)s"}},
            "filters": {"context": {"()": "synapse.logging.context.LoggingContextFilter"}},
            "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["context"]}},
            "loggers": {"synapse.storage.SQL": {"level": "INFO"}},
            "root": {"level": "INFO", "handlers": ["console"]},
            "disable_existing_loggers": False,
        }

    def _homeserver(self):
        unlimited = {"per_second": 100_000, "burst_count": 100_000}
        return {
            "server_name": self.name,
            "public_baseurl": self.url,
            "report_stats": False,
            "pid_file": str(self.folder / "pid"),
            "log_config": str(self.folder / "log.yaml"),
            "signing_key_path": str(self.folder / "signing.key"),
            "media_store_path": str(self.folder / "media"),
            "database": {"name": "sqlite3", "args": {"database": str(self.folder / "synapse.db")}},
            "listeners": [
                self._listener(CLIENT_PORT, tls=False, names=["client"]),
                self._listener(FEDERATION_PORT, tls=True, names=["federation"]),
            ],
            "tls_certificate_path": str(self._certificate),
            "tls_private_key_path": str(self._key),
            "federation_custom_ca_list": [str(self._authority.path)],
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "registration_shared_secret": REGISTRATION_SECRET,
            "macaroon_secret_key": "macaroons",
            "form_secret": "forms",
            "bcrypt_rounds": 4,
            "room_list_publication_rules": [{"action": "allow"}],
            "allow_public_rooms_over_federation": True,
            "allow_public_rooms_without_auth": True,
            # What it limits is not what is looked at here.
            "rc_message": unlimited,
            "rc_registration": unlimited,
            "rc_login": {"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
            "rc_admin_redaction": unlimited,
            "rc_joins": {"local": unlimited, "remote": unlimited},
            "rc_joins_per_room": unlimited,
            "rc_invites": {"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
            "rc_3pid_validation": unlimited,
            "rc_media_create": unlimited,
            "rc_room_creation": unlimited,
            "rc_presence": {"per_user": unlimited},
            "remote_media_download_per_second": "1G",
            "remote_media_download_burst_count": "10G",
            "rc_federation": {
                "window_size": 1000,
                "sleep_limit": 100_000,
                "sleep_delay": 1,
                "reject_limit": 100_000,
                "concurrent": 100,
            },
            "federation_rr_transactions_per_room_per_second": 1000,
        }

    def _listener(self, port, tls, names):
        return {
            "type": "http",
            "port": port,
            "tls": tls,
            "bind_addresses": [self.address],
            "resources": [{"names": names}],
        }

    def _command(self):
        command = [self.python, "-m", "synapse.app.homeserver", "-c", self.folder / "homeserver.yaml"]
        return command, {"PYTHONUNBUFFERED": "1"}


KINDS = {server.kind: server for server in (Parlour, Synapse)}
