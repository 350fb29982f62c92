// User-interactive authentication: the server asks for a proof before important changes.

import { MatrixError } from "../server/api.ts";
import { asArray, asRecord, asString, asStrings, type Content } from "../server/events.ts";

export interface AuthChallenge {
  session: string | undefined;
  /** The possible flows, each a list of stages. */
  flows: string[][];
  completed: string[];
}

/** The fields that each stage needs in addition to its type and session. */
export type StageAnswers = Record<string, Content>;

export const PASSWORD_STAGE = "m.login.password";
export const TOKEN_STAGE = "m.login.registration_token";
export const DUMMY_STAGE = "m.login.dummy";

/** The message for the user when a stage is refused. */
const STAGE_FAILURE_TEXTS: Record<string, string> = {
  [PASSWORD_STAGE]: "This is not the right password.",
  [TOKEN_STAGE]: "This token is not valid, or has already been used.",
};

/** Reads the challenge from a 401 response; null if it is something else. */
export function readChallenge(error: unknown): AuthChallenge | null {
  if (!(error instanceof MatrixError) || error.status !== 401) return null;
  const { flows, session, completed } = error.body;
  if (!Array.isArray(flows)) return null;
  return {
    session: asString(session),
    flows: asArray(flows).map((flow) => asStrings(asRecord(flow)?.["stages"])),
    completed: asStrings(completed),
  };
}

/**
 * Sends a request and completes the stages that the server asks for with the given answers. Throws an error with a
 * message for the user if the server refuses an answer or asks for an unknown stage.
 */
export async function withInteractiveAuth<T>(send: (auth: Content | undefined) => Promise<T>, answers: StageAnswers): Promise<T> {
  const known: StageAnswers = { [DUMMY_STAGE]: {}, ...answers };
  let auth: Content | undefined;
  for (const tried = new Set<string>(); ; ) {
    try {
      return await send(auth);
    } catch (error) {
      const challenge = readChallenge(error);
      if (challenge === null) throw error;
      const stage = nextStage(challenge, known);
      if (stage === undefined) throw new MatrixError(401, "M_UNAUTHORIZED", "The server asks for a verification step that this page does not support.");
      if (tried.has(stage)) throw new MatrixError(401, (error as MatrixError).errcode, STAGE_FAILURE_TEXTS[stage] ?? (error as MatrixError).message);
      tried.add(stage);
      auth = { ...known[stage], type: stage, ...(challenge.session === undefined ? {} : { session: challenge.session }) };
    }
  }
}

/** Returns the answer to the password stage. */
export function passwordAnswers(userId: string, password: string): StageAnswers {
  return { [PASSWORD_STAGE]: { identifier: { type: "m.id.user", user: userId }, password } };
}

function nextStage({ flows, completed }: AuthChallenge, answers: StageAnswers): string | undefined {
  const open = flows
    .map((stages) => stages.filter((stage) => !completed.includes(stage)))
    .filter((left) => left.length > 0 && left.every((stage) => stage in answers));
  // Prefers a flow that uses the given answers to one that needs nothing.
  const preferred = open.find((left) => !left.every((stage) => stage === DUMMY_STAGE)) ?? open[0];
  return preferred?.[0];
}
