// A small bridge built with matrix-appservice-bridge. It relays messages between Matrix rooms and channels of a remote
// network, which the scenarios play. An alias creates a room for a channel, and an invitation of a ghost opens a private
// chat, whose channel is the ghost's nickname.
//
//   node bridge.js REGISTRATION HOMESERVER_URL DOMAIN LISTEN_ADDRESS NETWORK_URL STATE_FILE
//
// It prints "ready" once the server can reach it, and ends in order on SIGTERM.
"use strict";

const fs = require("node:fs");
const { setTimeout: delay } = require("node:timers/promises");
const { Bridge, Logger } = require("matrix-appservice-bridge");

const [registration, homeserverUrl, domain, listenAddress, networkUrl, stateFile] = process.argv.slice(2);

const PROTOCOL = "irc";
const PREFIX = "_irc_";
// The channels of the network for which the bridge creates rooms.
const PUBLIC_CHANNELS = ["general"];
// A request that failed, because the other side is down, is repeated after this time.
const RETRY_INTERVAL_MS = 200;

Logger.configure({ console: "debug", colorize: false });

// The bridge's own memory: the room of each channel, and the room for pings.
const state = fs.existsSync(stateFile) ? JSON.parse(fs.readFileSync(stateFile, "utf8")) : { rooms: {} };
const stopping = new AbortController();

function saveState() {
    fs.writeFileSync(stateFile, JSON.stringify(state));
}

function linkRoom(channel, roomId) {
    state.rooms[channel] = roomId;
    saveState();
}

function channelOfRoom(roomId) {
    return Object.keys(state.rooms).find((channel) => state.rooms[channel] === roomId);
}

/** Returns the nickname or channel in the localpart of a ghost or an alias, or undefined for anything else. */
function withoutPrefix(localpart) {
    return localpart.startsWith(PREFIX) ? localpart.slice(PREFIX.length) : undefined;
}

function localpartOf(id) {
    return id.slice(1, id.indexOf(":"));
}

const bridge = new Bridge({
    registration,
    homeserverUrl,
    domain,
    disableStores: true,
    disableContext: true,
    queue: { type: "single", perRequest: true },
    controller: {
        onUserQuery(user) {
            const nickname = withoutPrefix(user.localpart);
            return nickname && { name: `${nickname} (IRC)` };
        },
        onAliasQuery(alias, localpart) {
            const channel = withoutPrefix(localpart);
            if (!PUBLIC_CHANNELS.includes(channel)) {
                return null;
            }
            return { creationOpts: { room_alias_name: localpart, name: channel, preset: "public_chat" } };
        },
        onAliasQueried(alias, roomId) {
            linkRoom(withoutPrefix(localpartOf(alias)), roomId);
        },
        onEvent(request) {
            request.outcomeFrom(processEvent(request.getData()));
        },
        async onEphemeralEvent(request) {
            await processEphemeralEvent(request.getData());
        },
        thirdPartyLookup: {
            protocols: [PROTOCOL],
            getProtocol: () => ({
                user_fields: ["nickname"],
                location_fields: ["channel"],
                icon: "mxc://example.org/irc",
                field_types: {
                    nickname: { regexp: "[^\\s]+", placeholder: "nickname" },
                    channel: { regexp: "[^\\s]+", placeholder: "channel" },
                },
                instances: [{ network_id: "bridges", desc: "The network of the scenarios", fields: {} }],
            }),
            getLocation: (protocol, fields) => [location(fields.channel)],
            parseLocation: (alias) => [location(withoutPrefix(localpartOf(alias)))],
            getUser: (protocol, fields) => [user(fields.nickname)],
            parseUser: (userId) => [user(withoutPrefix(localpartOf(userId)))],
        },
    },
});

function location(channel) {
    return { alias: `#${PREFIX}${channel}:${domain}`, protocol: PROTOCOL, fields: { channel } };
}

function user(nickname) {
    return { userid: `@${PREFIX}${nickname}:${domain}`, protocol: PROTOCOL, fields: { nickname } };
}

async function processEvent(event) {
    if (event.type === "m.room.member" && event.content.membership === "invite") {
        const nickname = withoutPrefix(localpartOf(event.state_key));
        if (nickname) {
            await retry("join the room", () => bridge.getIntent(event.state_key).join(event.room_id));
            linkRoom(nickname, event.room_id);
        }
    } else if (event.type === "m.room.message") {
        const channel = channelOfRoom(event.room_id);
        if (channel) {
            await deliver({ kind: "message", channel, sender: event.sender, text: event.content.body });
        }
    }
}

async function processEphemeralEvent(event) {
    const channel = channelOfRoom(event.room_id);
    if (event.type === "m.typing" && channel) {
        for (const sender of event.content.user_ids) {
            await deliver({ kind: "typing", channel, sender });
        }
    }
}

/** Sends the posts of the remote network into their rooms, one by one, until the bridge ends. */
async function sendPosts() {
    while (!stopping.signal.aborted) {
        const post = await retry("read the next post", () => request("GET", "/posts/next"));
        if (post) {
            await retry("send the post", () => sendPost(post));
            await retry("remove the post", () => request("DELETE", `/posts/${post.number}`));
        }
    }
}

/** Sends a post as the ghost of its author. The transaction id makes a repeated request harmless. */
async function sendPost(post) {
    const roomId = state.rooms[post.channel];
    const intent = bridge.getIntent(`@${PREFIX}${post.author}:${domain}`);
    await intent.ensureProfile(`${post.author} (IRC)`);
    await intent.join(roomId);
    const path = `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/send/m.room.message/network-${post.number}`;
    await intent.matrixClient.doRequest("PUT", path, null, { msgtype: "m.text", body: post.text });
}

async function deliver(delivery) {
    await retry("deliver to the network", () => request("POST", "/deliveries", delivery));
}

/** Sends a request to the network. */
async function request(method, path, body) {
    const response = await fetch(networkUrl + path, {
        method,
        body: body && JSON.stringify(body),
        signal: stopping.signal,
    });
    if (!response.ok) {
        throw new Error(`the network answered ${response.status}`);
    }
    const text = await response.text();
    return text ? JSON.parse(text) : undefined;
}

/** Repeats an action until it succeeds or the bridge ends. */
async function retry(what, action) {
    while (!stopping.signal.aborted) {
        try {
            return await action();
        } catch (error) {
            console.error(`Could not ${what}: ${error.message}`);
            await delay(RETRY_INTERVAL_MS);
        }
    }
    return undefined;
}

/** Waits until an event that the bot sends comes back in a transaction, which the framework calls a ping. */
async function ping() {
    if (!state.pingRoom) {
        const room = await bridge.getIntent().createRoom({ options: { preset: "private_chat", name: "Pings" } });
        state.pingRoom = room.room_id;
        saveState();
    }
    await bridge.pingAppserviceRoute(state.pingRoom);
}

async function main() {
    const [host, port] = listenAddress.split(":");
    await bridge.run(Number(port), undefined, host);
    await bridge.getIntent().ensureRegistered(true);
    await ping();
    console.log("ready");
    await sendPosts();
}

process.on("SIGTERM", async () => {
    stopping.abort();
    await bridge.close();
    process.exit(0);
});

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
