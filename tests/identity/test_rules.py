"""Who may speak for a client: addresses, certificates, the roster."""

import pytest

from flserver.errors import IdentityRefused
from flserver.identity.peer import Certificate, Peer
from flserver.identity.registered import Registered
from flserver.identity.roster import Member, Roster
from flserver.identity.rules import Identity

HERE, THERE = Peer(host="10.0.0.1", port=1), Peer(host="10.0.0.2", port=2)


def certified(common_name: str | None, fingerprint: str = "sha256:aa", host: str = "10.0.0.1") -> Peer:
    certificate = Certificate(subject=f"commonName={common_name}", common_name=common_name, fingerprint=fingerprint)
    return Peer(host=host, port=1, transport="tls", certificate=certificate)


@pytest.mark.parametrize(
    ("upload_from", "peer", "counts"),
    [
        (None, HERE, True),
        (None, Peer(host="10.0.0.1", port=999), True),
        (None, THERE, False),
        ("same-address", THERE, False),
        ("any", THERE, True),
    ],
)
def test_an_upload_counts_from_the_address_that_registered(upload_from: str | None, peer: Peer, counts: bool) -> None:
    identity = Identity(upload_from)
    if counts:
        identity.expect_upload(peer, Registered({"3": HERE}))
        identity.check_upload("3", peer, HERE)
        identity.check_registration("3", peer, HERE)
    else:
        with pytest.raises(IdentityRefused, match=r"no client has registered from 10\.0\.0\.2"):
            identity.expect_upload(peer, Registered({"3": HERE}))
        with pytest.raises(IdentityRefused, match=r"3 registered from 10\.0\.0\.1, an upload from 10\.0\.0\.2 does"):
            identity.check_upload("3", peer, HERE)
        with pytest.raises(IdentityRefused, match="registered from another address"):
            identity.check_registration("3", peer, HERE)


def test_the_address_of_a_registration_is_not_told_to_whoever_asks() -> None:
    with pytest.raises(IdentityRefused) as caught:
        Identity().check_registration("3", THERE, HERE)
    assert "10.0.0.1" not in str(caught.value), "this text is sent to the peer"


def test_a_restart_forgets_addresses() -> None:
    Identity().check_registration("3", THERE, None)
    Identity().check_upload("3", THERE, None)


class TestMutualTls:
    def test_the_common_name_is_the_client(self) -> None:
        identity = Identity(mutual_tls=True)
        assert identity.upload_from == "certificate"
        identity.check("3", certified("3"))
        with pytest.raises(IdentityRefused, match="the certificate is client 3's, the message says client 4"):
            identity.check("4", certified("3"))

    def test_a_certificate_without_one_name_is_nobodys(self) -> None:
        with pytest.raises(IdentityRefused, match=r"sha256:aa .*has no single common name"):
            Identity(mutual_tls=True).check("None", certified(None))

    @pytest.mark.parametrize("name", ["3\x1b", "3\n", "\u202e3"])
    def test_a_certificate_whose_name_is_no_id_is_nobodys(self, name: str) -> None:
        with pytest.raises(IdentityRefused, match=r"\) has a common name that is no client's id$"):
            Identity(mutual_tls=True).check("3", certified(name))

    def test_without_a_certificate_nobody_speaks(self) -> None:
        with pytest.raises(IdentityRefused, match="no certificate"):
            Identity(mutual_tls=True).check("3", HERE)

    def test_an_address_may_change_and_a_certificate_be_renewed(self) -> None:
        identity, before = Identity(mutual_tls=True), certified("3")
        after = certified("3", fingerprint="sha256:bb", host="10.0.0.9")
        identity.check_registration("3", after, before)
        identity.check_upload("3", after, before)
        identity.expect_upload(after, Registered({"3": before}))
        with pytest.raises(IdentityRefused, match="client 4 has not registered"):
            identity.expect_upload(certified("4"), Registered({"3": before}))

    def test_same_address_can_be_asked_for_as_well(self) -> None:
        identity, before = Identity("same-address", mutual_tls=True), certified("3")
        with pytest.raises(IdentityRefused, match="does not count"):
            identity.check_upload("3", certified("3", host="10.0.0.9"), before)
        with pytest.raises(IdentityRefused, match="the message says"):
            identity.check_upload("4", certified("3"), before)

    def test_any_lifts_the_address_and_not_the_certificate(self) -> None:
        identity = Identity("any", mutual_tls=True)
        identity.check_upload("3", certified("3", host="10.0.0.9"), certified("3"))
        with pytest.raises(IdentityRefused):
            identity.check_upload("4", certified("3"), certified("4"))

    def test_what_goes_on_record(self) -> None:
        assert Identity(mutual_tls=True).of(certified("3")) == "authenticated"
        assert Identity().of(HERE) == "claimed"
        assert Identity().of(certified("3")) == "claimed", "nobody asked for it"


class TestTheRoster:
    ROSTER = Roster(
        [
            Member(client_id="1", label="Lund", fingerprint="sha256:11"),
            Member(client_id="2", label="Malmö"),
            Member(client_id="site-3"),
        ]
    )

    def test_others_are_refused(self) -> None:
        identity = Identity(roster=self.ROSTER)
        identity.check("2", HERE)
        with pytest.raises(IdentityRefused, match="client 4 is not on the roster"):
            identity.check("4", HERE)
        assert [identity.label(name) for name in ("1", "site-3", "4")] == ["Lund", None, None]

    @pytest.mark.parametrize(
        ("client", "peer", "refusal"),
        [
            ("1", certified("anything", "sha256:11"), None),
            ("2", certified("2", "sha256:22"), None),
            ("2", certified("1", "sha256:11"), "client 1's"),
            # Signed and named 1, but not the certificate of 1.
            ("1", certified("1", "sha256:99"), "not the one that the roster has for client 1"),
            ("4", certified("4", "sha256:44"), "not on the roster"),
        ],
    )
    def test_a_fingerprint_stands_for_its_client(self, client: str, peer: Peer, refusal: str | None) -> None:
        identity = Identity(mutual_tls=True, roster=self.ROSTER)
        if refusal is None:
            identity.check(client, peer)
        else:
            with pytest.raises(IdentityRefused, match=refusal):
                identity.check(client, peer)

    def test_a_certificate_renewed_in_the_roster_goes_on_where_the_old_one_was(self) -> None:
        identity, old, new = (
            Identity(mutual_tls=True, roster=self.ROSTER), certified("1", "sha256:11"), certified("1", "sha256:12")
        )  # fmt: skip
        identity.check_registration("1", old, None)
        identity.roster = Roster([Member(client_id="1", fingerprint="sha256:12")])
        identity.expect_upload(new, Registered({"1": old}))
        identity.check_upload("1", new, old)
        for refused in (identity.expect_upload, lambda peer, _: identity.check_upload("1", peer, old)):
            with pytest.raises(IdentityRefused, match=r"sha256:11 .*not the one that the roster has for client 1"):
                refused(old, {"1": old})

    def test_members_are_named_for_people(self) -> None:
        assert [str(member) for member in self.ROSTER] == ["1 (Lund)", "2 (Malmö)", "site-3"]


# --- whose an upload is that cannot be used --------------------------------------------------------------------------


def at(host: str, certificate: Certificate | None = None) -> Peer:
    return Peer(host=host, port=1, certificate=certificate)


SITES = Registered({"1": at("192.0.2.1"), "2": at("192.0.2.2"), "3": at("192.0.2.2"), "4": at("127.0.0.1")})


@pytest.mark.parametrize(
    ("says", "host", "sender"),
    [
        ("1", "192.0.2.1", "1"),
        ("2", "192.0.2.2", "2"),
        ("1", "192.0.2.2", None),  # another's
        ("9", "192.0.2.1", None),  # nobody's
        (None, "192.0.2.1", "1"),  # one client alone is there
        (None, "192.0.2.2", None),  # two are
        (None, "192.0.2.9", None),
        ("4", "127.0.0.1", "4"),
        (None, "127.0.0.1", None),  # a loopback address stands for whoever has a forwarder there
    ],
)
def test_whose_an_unusable_upload_is(says: str | None, host: str, sender: str | None) -> None:
    assert Identity("same-address").sender(says, at(host), SITES) == sender


def test_a_certificate_says_whose_an_unreadable_upload_is() -> None:
    mine = Certificate(subject="commonName=1", common_name="1", fingerprint="sha256:11")
    other = Certificate(subject="commonName=9", common_name="9", fingerprint="sha256:99")
    identity, registered = Identity(mutual_tls=True), Registered({"1": at("127.0.0.1", mine)})
    assert identity.sender(None, at("127.0.0.1", mine), registered) == "1"
    assert identity.sender("1", at("127.0.0.1", mine), registered) == "1"
    assert identity.sender("1", at("127.0.0.1", other), registered) is None
    assert identity.sender(None, at("127.0.0.1", other), registered) is None
    assert identity.sender(None, at("127.0.0.1"), registered) is None


def test_where_anybody_may_upload_an_address_tells_nothing() -> None:
    assert Identity("any").sender(None, at("192.0.2.1"), Registered({"1": SITES["1"]})) is None
    assert Identity("any").sender("1", at("192.0.2.9"), Registered({"1": SITES["1"]})) == "1"


def test_a_certificate_says_whose_it_could_be_whoever_else_has_registered() -> None:
    identity, registered = Identity(mutual_tls=True), Registered({"1": certified("1"), "2": certified("2")})
    assert identity.could_be(certified("2"), registered) == ("2",)
    assert identity.could_be(certified("9"), registered) == ()
    assert identity.sender(None, certified("9"), registered) is None


def test_whose_it_could_be() -> None:
    assert Identity("same-address").could_be(at("192.0.2.2"), SITES) == ("2", "3")
