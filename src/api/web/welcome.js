// The form with which the link that the server prints, or an invitation with a token, is redeemed.
"use strict";
const token = new URLSearchParams(location.search).get("registration_token");
const form = document.querySelector("form");
const told = document.querySelector("output");

async function register(body) {
  const response = await fetch("/_matrix/client/v3/register", { method: "POST", body: JSON.stringify(body) });
  return { status: response.status, body: await response.json() };
}

// Goes through the stages that the server asks for, each once: the token, and whatever needs no answer.
async function redeem(username, password) {
  const account = { username, password, inhibit_login: true };
  let answer = await register(account);
  for (let stage = 0; stage < 4 && answer.status === 401 && !answer.body.errcode; stage++) {
    const { session, flows, completed = [] } = answer.body;
    const flow = flows.find((flow) => flow.stages.includes("m.login.registration_token")) ?? flows[0];
    const type = flow.stages.find((stage) => !completed.includes(stage));
    answer = await register({ ...account, auth: { type, session, token } });
  }
  return answer;
}

if (token) {
  document.querySelector("#register").hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.querySelector("button").disabled = true;
    const { username, password } = Object.fromEntries(new FormData(form));
    try {
      const { status, body } = await redeem(username, password);
      told.textContent = status === 200
        ? `Welcome. Your account is ${body.user_id}: sign in to it with a client, as shown above.`
        : `That did not work: ${body.error ?? "the server refused"}.`;
      if (status === 200) {
        form.querySelectorAll("label, button").forEach((part) => part.remove());
        history.replaceState(null, "", "/");
      }
    } catch {
      told.textContent = "The server could not be reached. Try again.";
    }
    form.querySelectorAll("button").forEach((button) => { button.disabled = false; });
  });
}
