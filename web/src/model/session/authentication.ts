// Registers accounts and logs in.

import { type Api, MatrixError, type RequestOptions } from "../server/api.ts";
import { asString } from "../server/events.ts";
import type { LoginResponse } from "./session.ts";
import { type AuthChallenge, DUMMY_STAGE, readChallenge, TOKEN_STAGE, withInteractiveAuth } from "./userInteractiveAuth.ts";

export type RegistrationMode = "open" | "token" | "closed";

export const MIN_PASSWORD_LENGTH = 8;
export const DEVICE_NAME = "Parlour";
/** After a rate limit the user decides when to try again. */
const WITHOUT_RETRY: RequestOptions = { anonymous: true, maxRetries: 0 };

/** Returns how accounts can be registered on this server. */
export async function fetchRegistrationMode(api: Api): Promise<RegistrationMode> {
  try {
    await api.post("/_matrix/client/v3/register", {}, { anonymous: true });
    return "closed";
  } catch (error) {
    const challenge = readChallenge(error);
    if (challenge !== null) return modeOf(challenge);
    if (error instanceof MatrixError) return "closed";
    throw error;
  }
}

function modeOf({ flows }: AuthChallenge): RegistrationMode {
  const passable = (known: string[]) => flows.some((stages) => stages.every((stage) => known.includes(stage)));
  if (passable([DUMMY_STAGE])) return "open";
  return passable([DUMMY_STAGE, TOKEN_STAGE]) ? "token" : "closed";
}

export interface NewAccount {
  username: string;
  password: string;
  token: string | null;
}

export async function register(api: Api, { username, password, token }: NewAccount): Promise<LoginResponse> {
  const request = { username, password, initial_device_display_name: DEVICE_NAME };
  return withInteractiveAuth<LoginResponse>(
    async (auth) => api.post("/_matrix/client/v3/register", { ...request, ...(auth && { auth }) }, WITHOUT_RETRY),
    token === null ? {} : { [TOKEN_STAGE]: { token } },
  );
}

export interface Credentials {
  username: string;
  password: string;
  /** The device to log in as again, after a soft logout. */
  deviceId?: string | undefined;
}

export async function login(api: Api, { username, password, deviceId }: Credentials): Promise<LoginResponse> {
  const request = {
    type: "m.login.password",
    identifier: { type: "m.id.user", user: username },
    password,
    ...(deviceId === undefined ? { initial_device_display_name: DEVICE_NAME } : { device_id: deviceId }),
  };
  return api.post("/_matrix/client/v3/login", request, WITHOUT_RETRY);
}

export type UsernameAvailability = { free: true } | { free: false; why: string };

/** Checks whether a user name can be registered. */
export async function checkUsername(api: Api, username: string, signal?: AbortSignal): Promise<UsernameAvailability> {
  try {
    await api.get("/_matrix/client/v3/register/available", { username }, { anonymous: true, signal });
    return { free: true };
  } catch (error) {
    if (!(error instanceof MatrixError) || error.status === 429) throw error;
    return { free: false, why: error.errcode === "M_USER_IN_USE" ? "This name is taken." : error.message };
  }
}

/** Converts typed text to a valid user name: lower-case letters, digits and a few signs. */
export function toUsername(typed: string): string {
  return typed
    .trim()
    .toLowerCase()
    .replace(/\s+/g, ".")
    .replace(/[^a-z0-9._=/+-]/g, "");
}

/** Returns why a password is not accepted; null if it is. */
export function passwordProblem(password: string, repeated: string): string | null {
  if ([...password].length < MIN_PASSWORD_LENGTH) return `The password needs at least ${MIN_PASSWORD_LENGTH} characters.`;
  return password === repeated ? null : "The two passwords do not match.";
}

/** Returns the server name that is used in ids; null if the server does not publish it. */
export async function fetchServerName(api: Api): Promise<string | null> {
  try {
    const keys = await api.get<Record<string, unknown>>("/_matrix/key/v2/server", {}, { anonymous: true });
    return asString(keys["server_name"]) ?? null;
  } catch {
    return null;
  }
}

/** Whether a registration token is valid. */
export async function isTokenValid(api: Api, token: string): Promise<boolean> {
  const where = "/_matrix/client/v1/register/m.login.registration_token/validity";
  return (await api.get<{ valid: boolean }>(where, { token }, { anonymous: true })).valid;
}
