"""The words of the generated data, in two lexicons that share no noun, name or verb.

`LEXICON` serves train, dev and test; `HELD_OUT` serves test_lexical alone. Adjectives, numbers, prepositions and the
auxiliaries être and avoir belong to both. Word lists are compact strings: `:f` marks a feminine noun, `+` a verb that
takes être, `/` parts an adjective's masculine from its feminine form.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from toolkit.embedded.french import Adjective, Noun, Phrase, Verb


def noun(text: str) -> Noun:
    """`rose:f` -> a feminine noun."""
    word, _, gender = text.partition(":")
    return Noun(word, gender == "f")


def nouns(text: str) -> tuple[Noun, ...]:
    """Nouns separated by blanks."""
    return tuple(noun(word) for word in text.split())


def verbs(text: str) -> tuple[Verb, ...]:
    """Verbs separated by commas, each as singular, plural and participle."""
    return tuple(verb(entry) for entry in text.split(","))


def verb(text: str) -> Verb:
    """`tombe tombent tombé+` -> a verb with être."""
    singular, plural, participle = text.split()
    return Verb(singular, plural, participle.removesuffix("+"), participle.endswith("+"))


def adjective(text: str) -> Adjective:
    """`noir/noire` or, where both genders agree, `jeune`."""
    masculine, _, feminine = text.partition("/")
    return Adjective(masculine, feminine or masculine)


def places(text: str) -> tuple[tuple[str, Noun], ...]:
    """`dans jardin, sur plage:f` -> preposition and noun."""
    return tuple((entry.split()[0], noun(entry.split()[1])) for entry in text.split(","))


class Concept(NamedTuple):
    """A noun in the hierarchy; `level` is 0 for a kind such as labrador, 1 for chien, 2 for animal."""

    noun: Noun
    level: int
    ancestors: tuple[Noun, ...]

    def below(self, other: "Concept") -> bool:
        """Whether every thing of this kind is one of the other."""
        return other.noun in self.ancestors

    def related(self, other: "Concept") -> bool:
        """Whether one contains the other; kinds that are not related exclude each other."""
        return self.noun == other.noun or self.below(other) or other.below(self)


def hierarchy(text: str) -> tuple[Concept, ...]:
    """Lines of `top > middle > kinds` or `middle > kinds` as concepts, each listed once."""
    concepts: dict[Noun, Concept] = {}
    for line in text.strip().splitlines():
        *heads, kinds = [part.strip() for part in line.split(">")]
        chain = [noun(head) for head in heads]
        for depth, head in enumerate(chain):
            level = len(chain) - depth
            concepts.setdefault(head, Concept(head, level, tuple(chain[:depth])))
        for kind in nouns(kinds):
            concepts[kind] = Concept(kind, 0, tuple(chain))
    return tuple(concepts.values())


class Converse(NamedTuple):
    """Two verbs for one event seen from its two sides: A `verb` (thing) `link` B = B `converse` (thing) `back` A.

    `asymmetric`: the relation excludes its own reversal (before, ahead of); otherwise the reversal stays possible.
    """

    verb: Verb
    link: str
    converse: Verb
    back: str
    has_thing: bool = False
    asymmetric: bool = False


@dataclass(frozen=True)
class Lexicon:
    """The open-class words one split may use."""

    men: tuple[str, ...]
    women: tuple[str, ...]
    things: tuple[Concept, ...]
    animals: tuple[Concept, ...]
    people: tuple[Concept, ...]
    roles: tuple[Noun, ...]
    gifts: tuple[Noun, ...]
    openables: tuple[Noun, ...]
    places: tuple[tuple[str, Noun], ...]
    domains: tuple[Noun, ...]
    occasions: tuple[Noun, ...]
    creating: tuple[Verb, ...]
    living: tuple[Verb, ...]
    acting: tuple[Verb, ...]
    moving: tuple[Verb, ...]
    social: tuple[Verb, ...]
    converses: tuple[Converse, ...]

    @cached_property
    def names(self) -> tuple[Phrase, ...]:
        """First names as phrases."""
        return tuple(Phrase(name) for name in self.men) + tuple(Phrase(name, True) for name in self.women)

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """Everything that can be drawn, bought or given."""
        return self.animals + self.things


COLOURS = tuple(adjective(text) for text in "noir/noire blanc/blanche gris/grise brun/brune".split())
# (adjective, opposite, complementary): of a complementary pair exactly one holds; otherwise there is a middle ground.
PERSON_OPPOSITES = tuple(
    (adjective(first), adjective(second), complementary)
    for first, second, complementary in (
        ("grand/grande", "petit/petite", False),
        ("riche", "pauvre", False),
        ("jeune", "âgé/âgée", False),
        ("calme", "agité/agitée", False),
        ("joyeux/joyeuse", "triste", False),
        ("présent/présente", "absent/absente", True),
        ("coupable", "innocent/innocente", True),
    )
)
THING_OPPOSITES = tuple(
    (adjective(first), adjective(second), complementary)
    for first, second, complementary in (
        ("grand/grande", "petit/petite", False),
        ("propre", "sale", False),
        ("lourd/lourde", "léger/légère", False),
        ("neuf/neuve", "usé/usée", False),
        ("ouvert/ouverte", "fermé/fermée", True),
        ("visible", "invisible", True),
    )
)
COMPARABLE = tuple(
    (adjective(first), adjective(second))
    for first, second in (
        ("grand/grande", "petit/petite"),
        ("riche", "pauvre"),
        ("jeune", "âgé/âgée"),
        ("rapide", "lent/lente"),
        ("fort/forte", "faible"),
        ("calme", "agité/agitée"),
    )
)
NUMBERS = "zéro un deux trois quatre cinq six sept huit neuf dix onze".split()

LEXICON = Lexicon(
    men=tuple("Paul Luc Marc Hugo Louis Jules Adam Nathan Théo Simon Victor Antoine Karim Olivier Étienne".split())
    + tuple("Julien Samuel Bruno Gabriel Yanis".split()),
    women=tuple("Léa Marie Zoé Emma Alice Chloé Inès Jeanne Louise Sarah Nadia Élise Julie Manon Fatou".split())
    + tuple("Hélène Agnès Clara Sophie Anna".split()),
    animals=hierarchy("""
        animal > chien > labrador caniche épagneul dalmatien teckel
        animal > chat > siamois persan chartreux
        animal > oiseau > merle pigeon moineau corbeau canari
        animal > insecte > fourmi:f papillon criquet scarabée guêpe:f
    """),
    things=hierarchy("""
        véhicule > voiture:f > berline:f limousine:f décapotable:f
        véhicule > bateau > voilier paquebot chalutier canot
        végétal > arbre > chêne pin bouleau érable sapin
        végétal > fleur:f > tulipe:f marguerite:f violette:f jonquille:f
        meuble > siège > fauteuil tabouret chaise:f canapé
        instrument > violon piano harpe:f trompette:f tambour
        outil > marteau tournevis scie:f pince:f rabot
        bijou > collier bracelet bague:f broche:f
        fromage > camembert roquefort gruyère brie
        chaussure:f > botte:f sandale:f pantoufle:f
    """),
    people=hierarchy("""
        musicien > pianiste violoniste guitariste
        sportif > nageur cycliste boxeur skieur
        commerçant > boucher libraire fleuriste épicier
        élève > lycéen collégien écolier
    """),
    roles=nouns("médecin peintre infirmière:f avocat boulangère:f facteur professeur ministre voisin voisine:f")
    + nouns("coiffeur danseuse:f directrice:f ambassadeur chanteuse:f"),
    gifts=nouns("cadeau achat lot"),
    openables=nouns("porte:f fenêtre:f tiroir valise:f boîte:f portail sac volet"),
    places=places(
        "dans jardin,dans cuisine:f,dans rue:f,dans salon,sur terrasse:f,sur balcon,sur plage:f,à marché,à gare:f"
    )
    + places("devant église:f,dans école:f"),
    domains=nouns("village ferme:f quartier refuge île:f parc"),
    occasions=nouns("nuit:f orage repas fête:f réunion:f pause:f"),
    creating=verbs(
        "dessine dessinent dessiné,photographie photographient photographié,filme filment filmé,peint peignent peint,"
        "observe observent observé,trouve trouvent trouvé,achète achètent acheté,remarque remarquent remarqué"
    ),
    living=verbs(
        "dort dorment dormi,mange mangent mangé,attend attendent attendu,bouge bougent bougé,recule reculent reculé,"
        "tombe tombent tombé+,avance avancent avancé"
    ),
    acting=verbs(
        "chante chantent chanté,danse dansent dansé,court courent couru,rit rient ri,nage nagent nagé,crie crient crié,"
        "pleure pleurent pleuré,joue jouent joué,tousse toussent toussé,voyage voyagent voyagé"
    ),
    moving=verbs(
        "arrive arrivent arrivé+,part partent parti+,sort sortent sorti+,rentre rentrent rentré+,"
        "chante chantent chanté,mange mangent mangé,joue jouent joué,dort dorment dormi"
    ),
    social=verbs(
        "salue saluent salué,invite invitent invité,remercie remercient remercié,critique critiquent critiqué,"
        "aide aident aidé,appelle appellent appelé,interroge interrogent interrogé,félicite félicitent félicité,"
        "encourage encouragent encouragé,consulte consultent consulté,rassure rassurent rassuré"
    ),
    converses=(
        Converse(verb("prête prêtent prêté"), "à", verb("emprunte empruntent emprunté"), "à", has_thing=True),
        Converse(verb("offre offrent offert"), "à", verb("reçoit reçoivent reçu"), "de", has_thing=True),
        Converse(verb("précède précèdent précédé"), "", verb("suit suivent suivi"), "", asymmetric=True),
        Converse(verb("est sont été"), "devant", verb("est sont été"), "derrière", asymmetric=True),
    ),
)

HELD_OUT = Lexicon(
    men=tuple("Bastien Cédric Damien Fabrice Grégoire Joseph Mathis Noé Quentin Rémi Armand".split()),
    women=tuple("Aurélie Béatrice Delphine Estelle Gaëlle Laurence Mélanie Noémie Océane Solène Odile".split()),
    animals=hierarchy("""
        mammifère > singe > gorille babouin macaque chimpanzé
        mammifère > rongeur > souris:f rat castor hamster écureuil
        reptile > serpent > vipère:f couleuvre:f cobra python
        reptile > lézard > gecko iguane caméléon
    """),
    things=hierarchy("""
        publication:f > livre > roman atlas dictionnaire manuel
        publication:f > journal > quotidien hebdomadaire
        arme:f > épée:f sabre poignard lance:f fusil
        récipient > bouteille:f seau vase cruche:f
        légume > carotte:f navet poireau radis
        jouet > poupée:f toupie:f ballon puzzle
    """),
    people=hierarchy("""
        scientifique > chimiste biologiste physicien astronome
        artisan > maçon menuisier potier tailleur
    """),
    roles=nouns("juge actrice:f ingénieur plombier couturière:f pilote maire notaire romancière:f pharmacienne:f"),
    gifts=nouns("trouvaille:f récompense:f surprise:f"),
    openables=nouns("coffre armoire:f panier malle:f grille:f placard"),
    places=places(
        "dans garage,dans forêt:f,dans grenier,dans couloir,sur pont,sur quai,sur colline:f,à hôpital,à théâtre"
    ),
    domains=nouns("hameau château région:f vallée:f ville:f"),
    occasions=nouns("hiver soirée:f cérémonie:f concert averse:f trajet"),
    creating=verbs(
        "admire admirent admiré,contemple contemplent contemplé,examine examinent examiné,"
        "aperçoit aperçoivent aperçu,sculpte sculptent sculpté,décrit décrivent décrit"
    ),
    living=verbs(
        "tremble tremblent tremblé,hésite hésitent hésité,glisse glissent glissé,fuit fuient fui,"
        "respire respirent respiré,survit survivent survécu"
    ),
    acting=verbs(
        "grimace grimacent grimacé,dîne dînent dîné,ronfle ronflent ronflé,bavarde bavardent bavardé,"
        "patiente patientent patienté,sursaute sursautent sursauté,bâille bâillent bâillé"
    ),
    moving=verbs(
        "vient viennent venu+,descend descendent descendu+,monte montent monté+,revient reviennent revenu+,"
        "dîne dînent dîné,ronfle ronflent ronflé"
    ),
    social=verbs(
        "complimente complimentent complimenté,défend défendent défendu,soutient soutiennent soutenu,"
        "conseille conseillent conseillé,accueille accueillent accueilli,contacte contactent contacté,"
        "prévient préviennent prévenu,surprend surprennent surpris"
    ),
    converses=(
        Converse(verb("donne donnent donné"), "à", verb("obtient obtiennent obtenu"), "de", has_thing=True),
        Converse(verb("emploie emploient employé"), "", verb("travaille travaillent travaillé"), "pour"),
        Converse(verb("héberge hébergent hébergé"), "", verb("loge logent logé"), "chez"),
        Converse(verb("est sont été"), "devant", verb("est sont été"), "derrière", asymmetric=True),
    ),
)
