"""Who takes part in a run: registrations, and the join window in which they come. Pure; ``rules.Rounds`` adds to it."""

from collections.abc import Collection, Mapping

from flserver.errors import RegistrationRefused
from flserver.events.words import LeftReason
from flserver.identity.peer import Peer
from flserver.identity.registered import Registered
from flserver.identity.rules import Identity
from flserver.rounds.join_window import JoinWindow, Stage
from flserver.rounds.places import Places, Taken
from flserver.rounds.rates import RegistrationRates
from flserver.rounds.seats import Participant, Registration, SentModel
from flserver.settings import RoundPolicy

TRAINING_STARTED = "The server has already started the training. You cannot participate now"


class Participants:
    """The clients of a run, as they come and go.

    ``known`` are those of earlier processes of this run (client id → samples, registrations so far), but ``visitors``
    left before a join window closed, and are newcomers; ``identity`` says who may speak for whom; of ``places`` None is
    as many as come, and as often.
    """

    def __init__(
        self,
        policy: RoundPolicy,
        known: Mapping[str, tuple[int, int]],
        identity: Identity,
        visitors: Collection[str] = (),
        places: Places | None = None,
    ) -> None:
        self._policy = policy
        self._identity = identity
        self._places = places
        self._rates = RegistrationRates(places.an_address) if places is not None else None
        self.participants = {
            client_id: Participant(client_id, data_size, registration, takes_part=client_id not in visitors)
            for client_id, (data_size, registration) in known.items()
        }
        self.registered = Registered()  # those with a peer, as the participants have it
        self.taken = Taken()  # by those who are not absent
        self.live = 0  # how many participants are
        self.window = JoinWindow(policy)
        self._refusal: str | None = None  # of every registration, once the run is over

    def register(
        self, client_id: str, data_size: int, peer: Peer, now: float, holds: SentModel | None = None
    ) -> Registration:
        """Reserve a registration of ``client_id`` with ``data_size`` samples. It takes part once
        :meth:`confirm_registration` says that it is on record. Its trainer ``holds`` a model of an earlier server,
        which it will answer.

        Raises RegistrationRefused or IdentityRefused with the text for the trainer.
        """
        known = self.participants.get(client_id)
        self._identity.check_registration(client_id, peer, known.peer if known is not None else None)
        if data_size > self._policy.max_data_size:
            raise RegistrationRefused(
                f"data_size {data_size} is more than --max-data-size {self._policy.max_data_size}"
            )
        if self._refusal is not None:
            raise RegistrationRefused(self._refusal)
        # The one that is there takes no harm of it: who says its name now may be a neighbour behind its address.
        if known is not None and known.standing != "absent":
            raise RegistrationRefused(f"Client {client_id} is registered already, and its connection is alive")
        comes_back = known is not None and known.takes_part and (self.window.open or self._policy.rejoin)
        if not self.window.admits and not comes_back:
            raise RegistrationRefused(TRAINING_STARTED)
        if self._places is not None:
            self._places.check(peer.host, self.taken)
        if self._rates is not None:  # the last: who is refused uses nothing up
            self._rates.take(client_id, peer, now, newcomer=known is None or not known.takes_part)
        if known is None:
            known = self.participants[client_id] = Participant(client_id, data_size, 0)
        rejoined = known.registration > 0
        known.move("registers")
        known.data_size, known.registration, known.since = data_size, known.registration + 1, now
        known.peer, known.unanswered, known.last_answer = peer, holds, None
        self.registered[client_id] = peer
        self.taken.take(peer.host)
        self.window.take(client_id, now)
        return Registration(client_id, known.registration, rejoined)

    def confirm_registration(self, registration: Registration) -> None:
        """The registration is on record: from the next attempt on it is invited."""
        participant = self.participants[registration.client_id]
        if participant.registration == registration.number and participant.standing == "registering":
            participant.move("is on record")
            self.live += 1

    def leave(self, registration: Registration, reason: LeftReason = "closed") -> None:
        """The registration's connection ended, or was ended, for that ``reason``. What it already answered stays.

        Who leaves before the window closes counts for nothing, and the id is anybody's again.
        """
        participant = self.participants[registration.client_id]
        if participant.registration != registration.number or participant.standing == "absent":
            return
        self.live -= participant.live
        participant.move("leaves")
        assert participant.peer is not None
        self.taken.give_back(participant.peer.host)
        self.window.drop(registration.client_id)
        if not participant.takes_part:
            participant.peer = None
            self.registered.pop(registration.client_id, None)

    def finish(self, refusal: str) -> None:
        """The run is over: nobody may register any more; ``refusal`` is the text for the trainer."""
        self._refusal = refusal

    def still_listed(self, registration: Registration) -> bool:
        """Whether a registration may go on: a roster that was read again may have left its client out."""
        return self._identity.lists(registration.client_id)

    def registered_peer(self, client_id: str) -> tuple[Peer | None, bool]:
        """Who registered that client in this process, if anybody did, and whether it is there."""
        participant = self.participants.get(client_id)
        if participant is None:
            return None, False
        return participant.peer, participant.peer is not None and participant.standing != "absent"

    def registered_peers(self) -> list[tuple[Peer, bool]]:
        """Who registered clients in this process, each with whether that client is there."""
        return [(p.peer, p.standing != "absent") for p in self.participants.values() if p.peer is not None]

    # --- the join window ---------------------------------------------------------------------------------------------

    def window_over(self, now: float) -> bool:
        """Whether the join window may close: its end has come, and nobody is half registered who began before that."""
        all_there = self._identity.roster is not None and not self.absent()
        if not self.window.over(now, live=self.live, all_there=all_there):
            return False
        half = (p.since for p in self.participants.values() if p.standing == "registering")
        return not any(since <= (self.window.ended_at or now) for since in half)

    def window_stage(self, now: float) -> Stage:
        """How far the join window is."""
        return self.window.stage(now, live=self.live)

    def _close_window(self) -> int:
        """Close the join window: whoever is there takes part. Returns the quorum that follows from it."""
        quorum = self.window.close()
        for participant in self.participants.values():
            participant.takes_part = participant.takes_part or participant.standing != "absent"
        self.participants = {p.client_id: p for p in self.participants.values() if p.takes_part}
        return quorum

    def absent(self) -> tuple[str, ...]:
        """The clients on the roster that are not there, as text for people; none where there is no roster."""
        live = {p.client_id for p in self.participants.values() if p.live}
        return tuple(str(member) for member in self._identity.roster or () if member.client_id not in live)
