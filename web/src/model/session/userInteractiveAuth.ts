// User-interactive authentication: what the server wants to be told again before it does something that matters.

import { MatrixError } from "../server/api.ts";
import { type Content, list, record, strings, text } from "../server/events.ts";

export interface AuthChallenge {
  session: string | undefined;
  /** The ways through, each a list of stages. */
  flows: string[][];
  completed: string[];
}

/** What a stage needs to be told beside its type and session. */
export type StageAnswers = Record<string, Content>;

export const PASSWORD_STAGE = "m.login.password";
export const TOKEN_STAGE = "m.login.registration_token";
export const DUMMY_STAGE = "m.login.dummy";

/** What a stage that was refused means to the person. */
const STAGE_FAILURE_TEXTS: Record<string, string> = {
  [PASSWORD_STAGE]: "This is not the right password.",
  [TOKEN_STAGE]: "This token is not valid, or it was used already.",
};

/** Reads the challenge out of an answer of 401; null where it is something else. */
export function readChallenge(error: unknown): AuthChallenge | null {
  if (!(error instanceof MatrixError) || error.status !== 401) return null;
  const { flows, session, completed } = error.body;
  if (!Array.isArray(flows)) return null;
  return {
    session: text(session),
    flows: list(flows).map((flow) => strings(record(flow)?.["stages"])),
    completed: strings(completed),
  };
}

/**
 * Sends a request, and goes through the stages that the server asks for with the answers given. An answer that the
 * server refuses is thrown with what that means; a server that asks for something else, too.
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
      if (stage === undefined) throw new MatrixError(401, "M_UNAUTHORIZED", "The server wants a proof that this page cannot give.");
      if (tried.has(stage)) throw new MatrixError(401, (error as MatrixError).errcode, STAGE_FAILURE_TEXTS[stage] ?? (error as MatrixError).message);
      tried.add(stage);
      auth = { ...known[stage], type: stage, ...(challenge.session === undefined ? {} : { session: challenge.session }) };
    }
  }
}

/** The answer to the stage that asks for the password. */
export function passwordAnswers(userId: string, password: string): StageAnswers {
  return { [PASSWORD_STAGE]: { identifier: { type: "m.id.user", user: userId }, password } };
}

function nextStage({ flows, completed }: AuthChallenge, answers: StageAnswers): string | undefined {
  const open = flows
    .map((stages) => stages.filter((stage) => !completed.includes(stage)))
    .filter((left) => left.length > 0 && left.every((stage) => stage in answers));
  // A flow that uses what was given is meant, rather than one that needs nothing.
  const meant = open.find((left) => !left.every((stage) => stage === DUMMY_STAGE)) ?? open[0];
  return meant?.[0];
}
