// A push service for the tests, and the browser's side of a subscription: it decrypts messages as RFC 8291 says, with
// Node's cryptography, so that the server's encryption is checked by other code.

import { createDecipheriv, createECDH, createPublicKey, type ECDH, hkdfSync, randomBytes, verify } from "node:crypto";
import { createServer, type IncomingHttpHeaders, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { BrowserContext } from "playwright-core";

export type PushContent = Record<string, unknown>;

/** A request of the server, with its decrypted content. */
export interface ReceivedPush {
  path: string;
  headers: IncomingHttpHeaders;
  content: PushContent;
}

/** The claims of a VAPID token, RFC 8292. */
export interface VapidClaims {
  aud: string;
  exp: number;
  sub?: string;
}

const SALT_BYTES = 16;
/** The salt, the record size, and the length of the key id. */
const FIXED_HEADER_BYTES = SALT_BYTES + 4 + 1;
const TAG_BYTES = 16;
/** The byte between the content of the last record and its padding. */
const LAST_RECORD_DELIMITER = 2;

export class PushService {
  private readonly keys: ECDH = createECDH("prime256v1");
  private readonly auth = randomBytes(16);
  private readonly received: ReceivedPush[] = [];
  private readonly waiting: ((push: ReceivedPush) => void)[] = [];
  private server!: Server;

  constructor() {
    this.keys.generateKeys();
  }

  async start(): Promise<void> {
    this.server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const push = { path: request.url ?? "", headers: request.headers, content: this.decrypt(Buffer.concat(chunks)) };
        response.writeHead(201).end();
        const next = this.waiting.shift();
        if (next === undefined) this.received.push(push);
        else next(push);
      });
    });
    await new Promise<void>((resolve) => this.server.listen(0, "127.0.0.1", resolve));
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  get subscription(): { endpoint: string; p256dh: string; auth: string } {
    return { endpoint: `${this.origin}/subscription`, p256dh: this.keys.getPublicKey().toString("base64url"), auth: this.auth.toString("base64url") };
  }

  /** Returns the oldest message that was not returned yet, or waits for one. */
  async nextPush(): Promise<ReceivedPush> {
    const push = this.received.shift();
    return push ?? new Promise((resolve) => this.waiting.push(resolve));
  }

  /** How many messages have arrived that were not returned yet. */
  get unreadCount(): number {
    return this.received.length;
  }

  /**
   * Lets a browser subscribe here: Chromium would ask a push service of its vendor. The browser keeps the subscription over
   * reloads.
   */
  async replaceIn(context: BrowserContext): Promise<void> {
    await context.addInitScript(installPushManager, this.subscription);
  }

  private decrypt(body: Buffer): PushContent {
    const salt = body.subarray(0, SALT_BYTES);
    const recordSize = body.readUInt32BE(SALT_BYTES);
    const ciphertextStart = FIXED_HEADER_BYTES + body.readUInt8(FIXED_HEADER_BYTES - 1);
    const senderKey = body.subarray(FIXED_HEADER_BYTES, ciphertextStart);
    const ciphertext = body.subarray(ciphertextStart);
    if (ciphertext.length > recordSize) throw new Error("The message has more than one record.");

    const keyInfo = Buffer.concat([Buffer.from("WebPush: info\0"), this.keys.getPublicKey(), senderKey]);
    const inputKey = derive(this.keys.computeSecret(senderKey), this.auth, keyInfo, 32);
    const contentKey = derive(inputKey, salt, "Content-Encoding: aes128gcm\0", 16);
    const nonce = derive(inputKey, salt, "Content-Encoding: nonce\0", 12);
    const decipher = createDecipheriv("aes-128-gcm", contentKey, nonce);
    decipher.setAuthTag(ciphertext.subarray(-TAG_BYTES));
    const record = Buffer.concat([decipher.update(ciphertext.subarray(0, -TAG_BYTES)), decipher.final()]);
    const end = record.lastIndexOf(LAST_RECORD_DELIMITER);
    if (record.subarray(end + 1).some((byte) => byte !== 0)) throw new Error("The padding is not zero.");
    return JSON.parse(record.subarray(0, end).toString()) as PushContent;
  }
}

/** Checks the VAPID signature of a request with the server's public key. Returns the claims. */
export function verifyVapid(headers: IncomingHttpHeaders, serverKey: string): VapidClaims {
  const [, token, key] = /^vapid t=([\w.-]+), ?k=([\w-]+)$/.exec(headers.authorization ?? "") ?? [];
  if (token === undefined || key !== serverKey) throw new Error(`This is not a VAPID header with the server's key: ${headers.authorization}`);
  const [head, claims, signature] = token.split(".") as [string, string, string];
  const point = Buffer.from(serverKey, "base64url");
  const [x, y] = [point.subarray(1, 33).toString("base64url"), point.subarray(33).toString("base64url")];
  const publicKey = createPublicKey({ format: "jwk", key: { kty: "EC", crv: "P-256", x, y } });
  const isValid = verify("sha256", Buffer.from(`${head}.${claims}`), { key: publicKey, dsaEncoding: "ieee-p1363" }, Buffer.from(signature, "base64url"));
  if (!isValid) throw new Error("The signature of the VAPID token is wrong.");
  return JSON.parse(Buffer.from(claims, "base64url").toString()) as VapidClaims;
}

function derive(key: Buffer, salt: Buffer, info: string | Buffer, length: number): Buffer {
  return Buffer.from(hkdfSync("sha256", key, salt, info, length));
}

/** Runs in the page. */
function installPushManager(keys: PushService["subscription"]): void {
  const storageKey = "test.pushServerKey";
  const decode = (text: string) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0)).buffer;
  const current = () => {
    const serverKey = localStorage.getItem(storageKey);
    if (serverKey === null) return null;
    return {
      endpoint: keys.endpoint,
      options: { userVisibleOnly: true, applicationServerKey: decode(serverKey) },
      getKey: (name: "p256dh" | "auth") => decode(keys[name]),
      unsubscribe: async () => {
        localStorage.removeItem(storageKey);
        return true;
      },
    };
  };
  Object.assign(PushManager.prototype, {
    getSubscription: async () => current(),
    subscribe: async ({ applicationServerKey }: { applicationServerKey: string }) => {
      localStorage.setItem(storageKey, applicationServerKey);
      return current();
    },
  });
}
