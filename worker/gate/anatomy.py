# ruff: noqa: RUF001  (letters of other alphabets that look like Latin ones)
"""The words for the chest and for other parts of the body, in the languages of the field.

English has the defined terms of Body Part Examined (PS3.16 annex L) and the words that devices and sites
write for them. A word that is in none of these lists says nothing. HEART, MEDIASTINUM, BRONCHUS, DIAPHRAGM,
AORTA and THYMUS say nothing either: they lie in the chest, and other images than chest films show them.
"""

from __future__ import annotations

from worker.gate.words import Vocabulary

#: Nouns for the chest and the lungs. A text with one of them means the chest, whatever else it names:
#: CHEST_TO_PELVIS, RIBS AND CHEST.
CHEST = Vocabulary(
    # English, and what Latin left everywhere. CHEST* would find Chester.
    "*CHEST, *CHESTS, *CHESTAB*, CHESTAP, CHESTPA, CHESTLAT*, CHESTPORT*, CHEST PEDI*, CHST, *CXR*, THORAX*,"
    "TORAX*, THORACES, LUNG, LUNGS, LUNGFIELD*, PULMO*, RIB CAGE AND LUNG*,"
    # German, Dutch, Swedish, Danish, Norwegian, Finnish
    "LUNGE, LUNGEN*, BRUSTKORB*, RONTGENTHORAX, RXTHORAX, RTGTHORAX, BORSTKAS*, LONGEN, BROSTKORG*, LUNGOR,"
    "LUNGER, BRYSTKASSE*, KEUHKO*, RINTAKEH*,"
    # French, Spanish, Portuguese, Italian, Romanian.
    "POITRINE*, POUMON*, TELETHORAX, PECHO, PECTORAL*, TELETORAX, TELE DE TORAX, PEITO, PULMAO, T RAX,"
    "TORACE, TORACI, PETTO, POLMON*, PLAMAN*,"
    # Polish, Czech, Slovak, Croatian, Hungarian, Lithuanian, Estonian, Turkish, Greek
    "KLATKA, KLATKI, KLP, KL PIERS*, PLUCA, PLUC, HRUDNIK*, PLICE, PLUCA I SRCE, GRUDNI KOS*, MELLKAS*,"
    "KRUTINES LAST*, RINDKERE*, TORAKS*, AKCIGER*, GOGUS*, ΘΩΡΑΚ*, ΠΝΕΥΜΟΝ*,"
    # Russian, Ukrainian, Bulgarian
    "ГРУДНАЯ КЛЕТКА, ГРУДНОЙ КЛЕТКИ, ГРУДНОЙ КЛЕТКЕ, ГРУДН КЛЕТ*, ГРУДНА КЛІТКА, ГРУДНОЇ КЛІТКИ, ОГК, ОГП,"
    "ГРУДЬ, ГРУДИ, ЛЕГКИЕ, ЛЕГКИХ, ЛЕГКОЕ, ЛЕГЕНІ, ГРЪДЕН КОШ, БЯЛ ДРОБ, ФЛЮОРОГРАФ*, ТОРАКС,"
    # Vietnamese, Indonesian, Arabic, Hebrew, Thai
    "NGUC, PHOI, TIM PHOI, DADA, PARU*, صدر, الصدر, חזה, ทรวงอก, ปอด,"
    # Chinese, Japanese, Korean: 胸 alone is in the words for the thoracic spine and the breastbone, too.
    "胸部, 胸片, 胸廓, 胸腔, 胸正, 胸侧, 胸側, 胸写, 胸透, *肺*, キョウブ, 흉부, 가슴"
)

#: Adjectives and words with two meanings. They mean the chest in a text that names no other part: not in
#: THORACIC SPINE.
CHEST_WITHOUT_MORE = Vocabulary(
    "THORACIC, THORACAL*, THORAKAL*, THORACIQUE*, TORACIC*, TORACAL*, TORAKAL*, BRUST, BORST, BRYST, HRUD*,"
    "PIERSIOW*, ГРУДН*, *胸*"
)

#: Words for what is not the chest. Ribs, breastbone, collarbone and the thoracic spine are other exposures.
OTHER_PARTS = Vocabulary(
    # English: the trunk, the spine and the pelvis
    "ABDOM*, ABD, ABDO, KUB, BELLY, ADRENAL*, AXILLA*, BACK, BLADDER, BILIARY, BILE DUCT*, BREAST*, MAMM*,"
    "BUTTOCK*, CERVIX, COLON, DUODENUM, ESOPHAG*, OESOPHAG*, GALLBLADDER, ILEUM, ILIUM, ILIAC*, JEJUNUM,"
    "KIDNEY*, RENAL, LIVER, OVARY, OVARIES, PANCREA*, PELVI*, PENIS, PERINEUM, PROSTATE, RECTUM, SCROTUM,"
    "SPLEEN, STOMACH, TESTI*, URETER*, URETHRA*, UTER*, VAGINA*, VULVA*, ANUS, BOWEL*, INTESTIN*, GROIN*,"
    "INGUINAL, RIB, RIBS, STERNUM, STERNAL, CLAVICL*, COLLAR BONE*, SCAPULA*, SC JOINT*, STERNOCLAVICULAR*,"
    "SPINE*, SPINAL, CSPINE*, TSPINE*, DSPINE*, LSPINE*, SSPINE*, TLSPINE*, LSSPINE*, CTSPINE*, SPN,"
    "VERTEBR*, CERVICAL*, LUMBAR*, LUMBO*, LUMBAL*, SACRU*, SACRAL*, SACRO*, COCCY*, SCOLIO*, SKELETON*,"
    "SKELETAL, BONE AGE, WHOLEBODY*, WHOLE BODY*, ENTIRE BODY, FULL BODY, PHANTOM*, FANTOM*, HEMITHORAX,"
    # English: head and neck
    "HEAD*, SKULL*, CRANI*, BRAIN*, CEREBELLUM, CEREBR*, CIRCLEOFWILLIS, FACE, FACIAL*, NASAL*, NOSE,"
    "SINUS*, PARANASAL*, PNS, ORBIT*, EYE, EYES, EYELID*, CORNEA*, SCLERA*, EAR, EARS, IAC, IAM, MASTOID*,"
    "TEMPORAL*, MAXILL*, MANDIB*, JAW, JAWS, TMJ*, TEMPOROMANDIB*, TOOTH, TEETH, DENTAL*, PANOREX, OPG,"
    "CEPHALO*, MOUTH, TONGUE, PAROTI*, SUBMANDIBULAR*, SUBLINGUAL*, CHEEK*, SCALP, ZYGOMA*, SELLA*,"
    "ADENOID*, NECK*, PHARYN*, NASOPHARYN*, LARYN*, TRACHEA*, THYROID*, PARATHYROID*, CAROTID*,"
    "SOFT TISSUE NECK,"
    # English: the limbs
    "EXTREMIT*, EXTREMET*, UP EXM, LOW EXM, UP EXT*, LOW EXT*, UPPER EXT*, LOWER EXT*, UPPERLIMB*,"
    "LOWERLIMB*, LIMB, LIMBS, ARM, ARMS, UPPERARM*, UPARM, FOREARM*, HUMER*, ELBOW*, RADIUS, ULNA*, WRIST*,"
    "CARPAL*, CARPUS, SCAPHOID*, NAVICULAR*, HAND, HANDS, FINGER*, THUMB*, METACARP*, SHOULDER*, SHLDR,"
    "ACROMI*, AC JOINT*, HIP, HIPS, HIPJOINT*, SI JOINT*, LEG, LEGS, LONGLEG*, LOWERLEG*, UPPERLEG*, THIGH*,"
    "FEMUR*, FEMOR*, KNEE*, PATELL*, TIBIA*, TIB FIB*, FIBUL*, CALF, ANKLE*, FOOT*, FEET, HEEL*, CALCAN*,"
    "OS CALCIS, TARS*, METATARS*, TOE, TOES, HALLUX, SESAMOID*, JOINT, JOINTS, VEIN*, ARTERY, ARTERIES,"
    # German
    "BAUCH*, BECKEN*, NIERE*, LEBER*, MAGEN*, DARM, HARNBLASE, SPEISEROHRE, RIPPE*, BRUSTBEIN, BRUSTWIRBEL*,"
    "SCHLUSSELBEIN*, SCHULTER*, WIRBEL*, *WIRBELSAULE, LENDEN*, HALSWIRBEL*, HALS, HWS, BWS, LWS,"
    "KREUZBEIN*, STEISSBEIN*, KOPF, SCHADEL*, SCHAEDEL*, KIEFER*, UNTERKIEFER*, OBERKIEFER*, NASENBEIN,"
    "NASE, NASENNEBENHOHLE*, NNH, ZAHN*, GEBISS, AUGE, OBERARM*, UNTERARM*, ELLBOGEN*, ELLENBOGEN*,"
    "HANDGELENK*, HANDWURZEL*, HANDE, DAUMEN*, HUFTE*, HUFTGELENK*, OBERSCHENKEL*, UNTERSCHENKEL*, KNIE*,"
    "KNOCHEL*, SPRUNGGELENK*, OSG, FUSS*, FUESSE, VORFUSS, RUCKFUSS, FERSE*, ZEHE*, GROSSZEHE*, BEIN, BEINE,"
    "GANZBEIN*,"
    # French
    "VENTRE, ASP, BASSIN*, REIN, REINS, FOIE, COTES, GRIL COSTAL, CLAVICULE*, OMOPLATE*, COLONNE*, RACHI*,"
    "CRANE*, TETE, COU, VISAGE, NEZ, DENT, DENTS, PANORAMIQUE DENTAIRE, MACHOIRE*, EPAULE*, BRAS,"
    "AVANT BRAS, COUDE*, POIGNET*, MAIN, MAINS, DOIGT*, POUCE*, HANCHE*, CUISSE*, JAMBE*, GENOU*, ROTULE*,"
    "CHEVILLE*, PIED, PIEDS, TALON*, ORTEIL*, MEMBRE*, SEIN, SEINS,"
    # Spanish and Portuguese
    "VIENTRE, RINON*, HIGADO, COSTILLA*, PARRILLA COSTAL, REJA COSTAL, ESTERNON, ESTERNO, CLAVICULA*,"
    "ESCAPULA*, OMOPLATO*, COLUMNA*, COLUNA*, RAQUIS, CABEZA*, CABECA*, CARA, CUELLO*, PESCOCO*, NARIZ,"
    "SENOS, SEIOS, SEIOS DA FACE, DIENTE*, DENTE*, HOMBRO*, OMBRO*, BRAZO*, BRACO*, ANTEBRA*, CODO*,"
    "COTOVELO*, MUNECA*, PUNHO*, MANO, MANOS, MAO, MAOS, DEDO*, PULGAR*, POLEGAR*, CADERA*, QUADRIL*,"
    "BACIA*, MUSLO*, COXA*, PIERNA*, PERNA*, RODILLA*, JOELHO*, TOBILLO*, TORNOZELO*, PIE, PIES, COSTELA*,"
    "ARCOS COSTAIS, MAMA, MAMAS, EXTREMIDAD*, MIEMBRO*, MEMBRO*,"
    # Italian and Romanian
    "ADDOM*, BACINO*, RENI, FEGATO, COSTA, COSTE, COSTOLE*, STERNO, CLAVICOLA*, SCAPOLA*, COLONNA*, TESTA,"
    "COLLO, NASO, DENTI, ORTOPANTOMO*, SPALLA*, BRACCIO*, AVAMBRACCIO*, GOMITO*, POLSO*, MANI, DITA,"
    "POLLICE*, ANCA, ANCHE, GAMBA*, GAMBE, GINOCCHI*, CAVIGLIA*, PIEDE*, PIEDI, TALLONE*, ARTO, ARTI,"
    "COLOANA*, GENUNCHI*, UMAR, PICIOR*, GLEZNA*,"
    # Dutch, Swedish, Danish, Finnish
    "BUIK*, BEKKEN*, NIER, RIBBEN, SLEUTELBEEN*, SCHOUDER*, WERVEL*, *WERVELKOLOM, CWK, TWK, LWK, HOOFD,"
    "SCHEDEL*, KAAK, GEBIT, NEUS, BOVENARM*, ONDERARM*, ELLEBOOG*, POLS, DUIM*, VINGER*, HEUP*, BOVENBEEN*,"
    "ONDERBEEN*, BEEN, BENEN, ENKEL*, VOET*, HIEL, TENEN, BUK, BUKOVERSIKT, RYGG*, HALSRYGG, LANDRYGG*,"
    "AXEL, ARMBAGE, HOFT*, KNA, KNAN, FOT, FOTTER, BACKEN, SKULDER*, VATSA, POLVI*, OLKA*, KASI, JALKA*,"
    "NILKKA*, LONKKA*,"
    # Polish, Czech, Slovak, Hungarian
    "BRZUCH*, BRZUSZN*, JAMA BRZUSZNA, MIEDNIC*, NERK*, ZEBRA, ZEBER, OBOJCZYK*, LOPATK*, MOSTEK*,"
    "KREGOSLUP*, ODC LEDZ*, ODC SZYJ*, ODC PIERS*, GLOWA, GLOWY, CZASZK*, ZUCHW*, ZATOK*, ZEBY, SZYJA,"
    "BARK*, RAMIE*, PRZEDRAMI*, LOKIEC*, LOKCI*, NADGARST*, DLON*, REKA, REKI, PALEC, PALCE, KCIUK*, BIODR*,"
    "UDO, UDA, PODUDZ*, KOLAN*, SKOKOW*, STAW SKOKOWY, STOPA, STOPY, PIETA, BRICHO, PANEV, LEBKA, RAMENO,"
    "LOKET, ZAPESTI, RUKA, RUKY, PRST*, KYCEL*, KOLENO, KOTNIK*, NOHA, NOHY, GERINC*, KOPONYA*, VALL,"
    "CSUKLO*, KEZ, TERD*, LABFEJ*,"
    # Turkish and Greek
    "BATIN, KARIN, BOBREK*, KABURGA*, KOSTA*, KLAVIKULA*, OMUZ*, OMURGA*, SERVIKAL*, LOMBER*, KAFA*, BOYUN,"
    "YUZ, BURUN, CENE*, KOL, ON KOL, DIRSEK*, EL BILEGI, EL BILEK, SAG EL, SOL EL, PARMAK*, BASPARMAK,"
    "KALCA*, UYLUK*, DIZ*, BALDIR*, BACAK*, AYAK*, TOPUK*, ΚΟΙΛΙΑ*, ΚΡΑΝΙΟ*, ΓΟΝΑΤΟ*, ΛΕΚΑΝΗ*, ΧΕΡΙ, ΠΟΔΙ,"
    "ΩΜΟΣ, ΩΜΟΥ, ΙΣΧΙΟ*, ΑΥΧΕΝΑ*,"
    # Russian and Ukrainian
    "ЖИВОТ*, БРЮШН*, ОБП, ТАЗ, ТАЗА, ТАЗОБЕДР*, МАЛЫЙ ТАЗ, ПОЧК*, ПЕЧЕН*, ЖЕЛУД*, КИШЕЧ*, ПИЩЕВОД*, РЕБРО,"
    "РЕБРА, РЕБЕР, ГРУДИН*, КЛЮЧИЦ*, ЛОПАТК*, ПОЗВОН*, ШОП, ГОП, ПОП, ШЕЙН*, ПОЯСН*, КРЕСТЕЦ*, КОПЧИК*, ШЕЯ,"
    "ШЕИ, ГОЛОВ*, ЧЕРЕП*, ЧЕЛЮСТ*, НОС, НОСА, ППН, ПАЗУХ*, ЗУБ, ЗУБЫ, ОРБИТ*, ГЛАЗ*, ПЛЕЧ*, ПРЕДПЛЕЧ*,"
    "ЛОКОТ*, ЛОКТ*, ЗАПЯСТ*, ЛУЧЕЗАПЯСТ*, КИСТЬ, КИСТИ, РУКА, РУКИ, ПАЛЕЦ, ПАЛЬЦ*, БЕДРО, БЕДРА, БЕДРЕНН*,"
    "ГОЛЕНЬ, ГОЛЕНИ, ГОЛЕНОСТОП*, КОЛЕН*, НАДКОЛЕН*, СТОПА, СТОПЫ, ПЯТК*, ПЯТОЧН*, НОГА, НОГИ, СУСТАВ*,"
    "КОНЕЧНОСТ*, МОЛОЧН*, ЧЕРЕВН*, ХРЕБ*, КОЛІН*, ТАЗУ,"
    # Chinese
    "*腹*, 骨盆, 盆腔, *肾*, *腎*, *肝*, *胃*, 食管, 食道, 乳腺, 乳房, *肋*, 胸骨, 锁骨, 鎖骨, *肩*, *椎*,"
    "*脊*, *腰*, *骶*, 尾骨, 头, 头部, 头颅, 頭, *颅*, *顱*, 面部, 颌, 上颌, 下颌, *鼻*, 眼, 眼眶, 耳, *牙*,"
    "*齿*, 口腔, *颈*, *頸*, *喉*, *咽*, 上肢, 下肢, 四肢, 上臂, 前臂, 肱骨, *肘*, 尺桡骨, *腕*, 手, 手部,"
    "手掌, 手指, 手骨, 右手, 左手, 双手, 手正, 手关节, 指, 指骨, 拇指, *髋*, *髖*, 股骨, 大腿, 小腿, *膝*,"
    "*髌*, *胫*, *腓*, *踝*, 跟骨, 足, 足部, 右足, 左足, 双足, 足正, 足侧, *趾*, 关节, 骨龄, 全身,"
    # Japanese
    "骨盤, *頚*, 頭部, 頭蓋, *顔*, *歯*, *顎*, 上腕, 示指, 母指, 関節, 下腿, 足趾, フクブ, トウブ, コツバン,"
    "ヒザ, アシ, カタ, ヨウツイ, ケイツイ, キョウツイ,"
    # Korean
    "복부, 골반, 신장, 늑골, 갈비뼈, 흉골, 쇄골, 견갑, 어깨, 견관절, 척추, 경추, 흉추, 요추, 천추, 미추,"
    "두부, 두개, 머리, 안면, 부비동, 턱, 치아, 목, 목뼈, 경부, 상완, 전완, 팔꿈치, 주관절, 손목, 손가락,"
    "수부, 손, 우측손, 좌측손, 고관절, 대퇴, 무릎, 슬관절, 하퇴, 발목, 족관절, 족부, 발가락, 발, 우측발,"
    "좌측발, 사지, 상지, 하지, 관절, 유방"
)
