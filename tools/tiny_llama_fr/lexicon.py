"""The words of the generated data: two lexicons that share no nouns, names or verbs.

`LEXICON` is for train, dev and test, `HELD_OUT` only for test_lexical. Both use the same adjectives, numbers,
prepositions and auxiliary verbs (être and avoir).
"""

from tools.tiny_llama_fr.vocabulary import (
    Converse,
    Lexicon,
    adjective,
    hierarchy,
    nouns,
    places,
    split_words,
    verb,
    verbs,
)

COLORS = tuple(adjective(text) for text in split_words("noir/noire blanc/blanche gris/grise brun/brune"))
# (adjective, opposite, complementary): exactly one of a complementary pair holds. Other pairs have a middle ground.
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
NUMBERS = split_words("zéro un deux trois quatre cinq six sept huit neuf dix onze")

LEXICON = Lexicon(
    men=split_words("Paul Luc Marc Hugo Louis Jules Adam Nathan Théo Simon Victor Antoine Karim Olivier Étienne")
    + split_words("Julien Samuel Bruno Gabriel Yanis"),
    women=split_words("Léa Marie Zoé Emma Alice Chloé Inès Jeanne Louise Sarah Nadia Élise Julie Manon Fatou")
    + split_words("Hélène Agnès Clara Sophie Anna"),
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
    men=split_words("Bastien Cédric Damien Fabrice Grégoire Joseph Mathis Noé Quentin Rémi Armand"),
    women=split_words("Aurélie Béatrice Delphine Estelle Gaëlle Laurence Mélanie Noémie Océane Solène Odile"),
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
